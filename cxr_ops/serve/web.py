"""The server's HTTP.

    POST /predict   a picture as it is (PNG, JPEG, DICOM), or JSON {"images": ["base64", ...]}; `?maps=1` adds heat maps
    GET /model      what answers: digests, findings, operating points, intended use
    GET /health     200 while the process lives, 503 once the model is lost for good
    GET /ready      200 while it can answer
    GET /metrics    counters, in Prometheus' text format

A picture that is refused gets JSON with `error`, and `next` where there is something to do; what is no request of these
(another path, another method, connections without end) gets a status and a word. A request is answered whole or not at
all, and an answer is given after its receipts are on disk.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from cxr_ops.data import answers as kept_answers
from cxr_ops.data import receipts
from cxr_ops.errors import CxrError, DataError
from cxr_ops.serve.engine import BATCH, Answer, Engine, running

_JSON: Final = "application/json"
_BUCKETS: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one caller may ask.

    Attributes:
        body_bytes: of a request.
        images: of a request.
        seconds: from a request's first byte to its answer.
        waiting: pictures that are under way at a time; who comes then is asked to come again.
    """

    body_bytes: int = 64 * 2**20
    images: int = 32
    seconds: float = 60.0
    waiting: int = 128


class _RefusedRequest(Exception):  # noqa: N818 - it is an answer
    """A request that gets no prediction: a status, why, and what to do."""

    def __init__(self, status: int, why: str, then: str | None = None, **headers: str) -> None:
        super().__init__(why)
        self.status, self.why, self.then, self.headers = status, why, then, headers

    def response(self) -> Response:
        body = {"error": self.why} | ({"next": self.then} if self.then else {})
        return JSONResponse(body, self.status, headers=self.headers)


@dataclass
class _Counts:
    requests: Counter[int] = field(default_factory=Counter)  # by status
    images: int = 0
    seconds: float = 0.0
    within: Counter[float] = field(default_factory=Counter)
    under_way: int = 0

    def answered(self, status: int, seconds: float) -> None:
        self.requests[status] += 1
        self.seconds += seconds
        for bound in _BUCKETS:
            self.within[bound] += seconds <= bound

    def text(self, engine: Engine) -> str:
        total = sum(self.requests.values())
        digest = engine.model.package.digest
        lines = [
            *_family("cxr_requests_total", "counter", "requests to /predict, by status"),
            *(f'cxr_requests_total{{status="{status}"}} {n}' for status, n in sorted(self.requests.items())),
            *_family("cxr_images_total", "counter", "pictures that were scored"),
            f"cxr_images_total {self.images}",
            *_family("cxr_request_seconds", "histogram", "from a request to its answer"),
            *(f'cxr_request_seconds_bucket{{le="{bound:g}"}} {self.within[bound]}' for bound in _BUCKETS),
            f'cxr_request_seconds_bucket{{le="+Inf"}} {total}',
            f"cxr_request_seconds_sum {self.seconds:.6f}",
            f"cxr_request_seconds_count {total}",
            *_family("cxr_batches_total", "counter", "batches that were scored, by their size"),
            *(f'cxr_batches_total{{size="{n}"}} {engine.batches[n]}' for n in range(1, BATCH + 1)),
            *_family("cxr_images_under_way", "gauge", "pictures that were taken and are not answered"),
            f"cxr_images_under_way {self.under_way}",
            *_family("cxr_ready", "gauge", "1 while the model answers"),
            f"cxr_ready {int(engine.ready)}",
            *_family("cxr_model_info", "gauge", "the digest of the package that answers"),
            f'cxr_model_info{{model="{digest}"}} 1',
        ]
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, meaning: str) -> tuple[str, str]:
    return f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"


class _Desk:
    """Takes requests and answers them."""

    def __init__(
        self, engine: Engine, served: receipts.Served, log: Path | None, limits: Limits, kept: Path | None
    ) -> None:
        self.engine, self.served, self.log, self.limits, self.kept = engine, served, log, limits, kept
        self.counts = _Counts()

    async def predict(self, request: Request) -> Response:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.limits.seconds):
                response: Response = JSONResponse(await self._predicted(request))
        except _RefusedRequest as refusal:
            response = refusal.response()
        except TimeoutError:
            response = _RefusedRequest(504, f"there was no answer within {self.limits.seconds:g} s").response()
        except ClientDisconnect:
            response = Response(status_code=499)  # nobody reads it; it is counted
        self.counts.answered(response.status_code, time.monotonic() - began)
        return response

    async def _predicted(self, request: Request) -> dict[str, Any]:
        if not self.engine.ready:
            raise _RefusedRequest(503, "the model is not loaded", "ask /ready", **{"retry-after": "2"})
        maps = request.query_params.get("maps", "0") in ("1", "true")
        images = self._images(await self._body(request), request.headers.get("content-type", ""))
        if self.counts.under_way + len(images) > self.limits.waiting:
            raise _RefusedRequest(503, "too many pictures are under way", "ask again", **{"retry-after": "1"})
        self.counts.under_way += len(images)
        try:
            answers = await self._answers(images, maps=maps)
        finally:
            self.counts.under_way -= len(images)
        given = [self.served.receipt(image, one.probabilities) for image, one in zip(images, answers, strict=True)]
        if self.log is not None:
            try:
                await asyncio.to_thread(receipts.append, self.log, given)
            except OSError as error:
                raise _RefusedRequest(503, f"the receipt cannot be written: {error.strerror}") from error
        if self.kept is not None:
            said = [
                {"probabilities": one.probabilities, "receipt": receipt}
                for one, receipt in zip(answers, given, strict=True)
            ]
            try:
                await asyncio.to_thread(kept_answers.append, self.kept, said)
            except OSError as error:
                raise _RefusedRequest(503, f"the answer cannot be kept: {error.strerror}") from error
        self.counts.images += len(images)
        return {
            "predictions": [
                {"probabilities": one.probabilities, "flags": one.flags, "receipt": receipt}
                | ({} if one.maps is None else {"maps": one.maps})
                for one, receipt in zip(answers, given, strict=True)
            ]
        }

    async def _answers(self, images: Sequence[bytes], *, maps: bool) -> list[Answer]:
        named = len(images) > 1
        found = await asyncio.gather(*(self.engine.decode(image) for image in images), return_exceptions=True)
        pixels = []
        for number, one in enumerate(found):
            if isinstance(one, DataError):
                raise _RefusedRequest(400, f"image {number}: {one.what}" if named else one.what, one.fix) from one
            if isinstance(one, BaseException):
                raise one
            pixels.append(one)
        try:
            return await self.engine.answer(pixels, maps=maps)
        except DataError as error:
            raise _RefusedRequest(400, error.what, error.fix) from error
        except CxrError as error:
            raise _RefusedRequest(503, error.what, "ask again") from error

    async def _body(self, request: Request) -> bytes:
        too_large = _RefusedRequest(
            413, f"the request has more than {self.limits.body_bytes} bytes", "send fewer or smaller pictures"
        )
        said = request.headers.get("content-length", "0")
        if said.isdecimal() and int(said) > self.limits.body_bytes:
            raise too_large
        parts, length = [], 0
        async for part in request.stream():
            length += len(part)
            if length > self.limits.body_bytes:
                raise too_large
            parts.append(part)
        return b"".join(parts)

    def _images(self, body: bytes, kind: str) -> list[bytes]:
        if kind.partition(";")[0].strip().lower() != _JSON:
            return [body]
        how = 'send {"images": ["base64", ...]}'
        try:
            texts = json.loads(body)["images"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _RefusedRequest(400, "the request is no JSON with a list of images", how) from error
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise _RefusedRequest(400, "images is no list of base64 texts", how)
        if len(texts) > self.limits.images:
            raise _RefusedRequest(413, f"the request has more than {self.limits.images} images", "send fewer at a time")
        images = []
        for number, text in enumerate(texts):
            try:
                images.append(base64.b64decode("".join(text.split()), validate=True))
            except (binascii.Error, ValueError) as error:
                raise _RefusedRequest(400, f"image {number} is not base64", how) from error
        return images

    # --------------------------------------------------------------------------------------- who looks after it

    async def health(self, request: Request) -> Response:
        del request
        if self.engine.failed is not None:
            return JSONResponse({"error": self.engine.failed.what}, 503)
        return JSONResponse({"alive": True})

    async def ready(self, request: Request) -> Response:
        del request
        return JSONResponse({"ready": self.engine.ready}, 200 if self.engine.ready else 503)

    async def metrics(self, request: Request) -> Response:
        del request
        return PlainTextResponse(self.counts.text(self.engine), media_type="text/plain; version=0.0.4")

    async def described(self, request: Request) -> Response:
        del request
        model = self.engine.model
        return JSONResponse(
            {
                "model": model.package.digest,
                "directory": model.directory,
                "signed_by": model.key,
                "ledger_entry": self.served.ledger_entry,
                "findings": list(model.package.trained),
                "operating_points": dict(model.points),
                "intended_use": model.package.contract.get("intended_use"),
            }
        )


def application(
    engine: Engine, served: receipts.Served, log: Path | None, limits: Limits, kept: Path | None = None
) -> Starlette:
    """The application of one model.

    Args:
        engine: of the model; it is started and ended with the application.
        served: what all receipts have in common.
        log: where receipts are added; None: they stand in the answers alone.
        limits: what one caller may ask.
        kept: where answers are added with their probabilities, for a monitor; None: nowhere.
    """
    desk = _Desk(engine, served, log, limits, kept)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with running(engine):
            yield

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/predict", desk.predict, methods=["POST"]),
            Route("/model", desk.described),
            Route("/health", desk.health),
            Route("/ready", desk.ready),
            Route("/metrics", desk.metrics),
        ],
    )


def serve(app: Starlette, host: str, port: int, limits: Limits) -> None:
    """Answer until SIGTERM or Ctrl-C, and let what is under way end."""
    import uvicorn

    uvicorn.run(
        app,
        host=host,
        port=port,
        access_log=False,  # addresses of people are nobody's business here
        log_level="warning",
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(limits.seconds),
        limit_concurrency=4 * limits.waiting,
    )
