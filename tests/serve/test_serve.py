"""`cxr-ops serve`: the answers, the refusals, the receipts, and what it takes to bring it down."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dicoms
import numpy as np
import psutil
import pytest
from bad_pictures import BAD
from finished import png
from served import Server, Signed, serving
from typer.testing import CliRunner

from cxr_ops.audit.package import digest as package_digest
from cxr_ops.commands import app as command
from cxr_ops.data import answers, receipts
from cxr_ops.data.checking.pictures import decode_any
from cxr_ops.errors import CxrError, DataError, RefusedError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import cam, package, scoring
from cxr_ops.serve import directory

RNG = np.random.default_rng(3)
PICTURES = [RNG.integers(0, 256, (60 + n, 70), dtype=np.uint8) for n in range(8)]


def scored(signed: Signed, pictures: list[np.ndarray]) -> np.ndarray:
    return scoring.score(package.load(signed.package), pictures)


def values(prediction: dict) -> list[float]:
    return [prediction["probabilities"][name] for name in FINDINGS]


@pytest.mark.parametrize("data", [png(PICTURES[0]), dicoms.dicom()], ids=["PNG", "DICOM"])
def test_a_picture_is_scored_as_in_the_evaluation(server: Server, signed: Signed, data: bytes) -> None:
    """A picture as it is, posted, gets the evaluation's probabilities, flags at the operating points, and a receipt
    that is in the log already."""
    status, found = server.ask("/predict", data)
    assert status == 200
    [prediction] = found["predictions"]
    np.testing.assert_allclose(values(prediction), scored(signed, [decode_any(data)])[0], atol=1e-6)
    assert prediction["flags"] == {FINDINGS[0]: True, FINDINGS[1]: False}
    receipt = prediction["receipt"]
    assert (receipt["input"], receipt["model"]) == (hashlib.sha256(data).hexdigest(), package_digest(signed.package))
    assert receipt["answer"] == receipts.digest_of(prediction["probabilities"])
    assert receipt in receipts.read(server.receipts).receipts
    kept = answers.read(server.answers)[-1]
    assert (kept.image, kept.model, kept.scores.tolist()) == (
        receipt["input"],
        receipt["model"],
        values(prediction),
    )
    assert server.answers.stat().st_mode & 0o077 == 0


def test_many_callers_share_batches_and_get_their_own_answers(server: Server, signed: Signed) -> None:
    """Sixteen callers at once each get the answer to their own picture, some of them from one batch."""
    expected = scored(signed, PICTURES)
    with ThreadPoolExecutor(16) as callers:
        found = list(callers.map(lambda n: server.ask("/predict", png(PICTURES[n % 8])), range(16)))
    for n, (status, answer) in enumerate(found):
        assert status == 200
        np.testing.assert_allclose(values(answer["predictions"][0]), expected[n % 8], atol=1e-5)
    text = server.ask("/metrics")[1]
    sizes = {line.split('"')[1]: int(line.split()[-1]) for line in text.splitlines() if "cxr_batches_total{" in line}
    assert sum(count for size, count in sizes.items() if int(size) > 1) > 0


def test_a_list_of_base64_and_heat_maps(server: Server, signed: Signed) -> None:
    """JSON with base64 pictures is answered in its order; `maps=1` adds the maps that `explain` draws."""
    body = json.dumps({"images": [base64.encodebytes(png(one)).decode() for one in PICTURES[:2]]}).encode()
    status, found = server.ask("/predict?maps=1", body, "application/json; charset=utf-8")
    assert status == 200
    drawn = cam.grad_cam(package.load(signed.package), PICTURES[:2]).maps
    for prediction, expected, maps in zip(found["predictions"], scored(signed, PICTURES[:2]), drawn, strict=True):
        np.testing.assert_allclose(values(prediction), expected, atol=1e-5)
        np.testing.assert_allclose([prediction["maps"][name] for name in FINDINGS], maps, atol=1e-4)


@pytest.mark.parametrize("name", [name for name, (data, _) in BAD.items() if isinstance(data, bytes)])
def test_what_ingestion_refuses_is_refused(server: Server, name: str) -> None:
    """Each bad picture is refused as ingestion refuses it, and leaves no receipt."""
    data, _ = BAD[name]
    with pytest.raises(DataError) as ours:
        decode_any(data)
    before = len(receipts.read(server.receipts).receipts) if server.receipts.exists() else 0
    status, found = server.ask("/predict", data)
    assert (status, found["error"]) == (400, ours.value.what)
    assert (len(receipts.read(server.receipts).receipts) if server.receipts.exists() else 0) == before


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"[1]", 400, "no JSON with a list of images"),
        (b'{"images": []}', 400, "no list of base64"),
        (b'{"images": [7]}', 400, "no list of base64"),
        (b'{"images": ["!"]}', 400, "image 0 is not base64"),
        (json.dumps({"images": ["AA=="] * 13}).encode(), 413, "more than 12 images"),
        (b" " * 300_001, 413, "more than 300000 bytes"),
        (json.dumps({"images": [base64.b64encode(png(PICTURES[0])).decode(), "AA=="]}).encode(), 400, "image 1: "),
    ],
)
def test_a_wrong_request_is_told_why(server: Server, body: bytes, status: int, why: str) -> None:
    """A request that is no request, or too large, gets a status and a sentence, and a list is answered whole or not."""
    found = server.ask("/predict", body, "application/json")
    assert found[0] == status
    assert why in found[1]["error"]


def test_the_model_is_described(server: Server, signed: Signed) -> None:
    """`/model` says what answers, `/health` that it lives, `/metrics` counts, and another method is refused."""
    described = server.ask("/model")[1]
    assert (described["model"], described["operating_points"]) == (package_digest(signed.package), signed.points)
    assert server.ask("/health") == (200, {"alive": True})
    server.ask("/predict", png(PICTURES[0]))
    text = server.ask("/metrics")[1]
    assert 'cxr_requests_total{status="200"}' in text
    assert "cxr_ready 1" in text
    assert server.ask("/predict")[0] == 405


def test_a_killed_process_is_started_again(server: Server, signed: Signed) -> None:
    """The model's process and those that decode are killed, and the next pictures are answered all the same."""
    expected = scored(signed, PICTURES[:1])[0]
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert len(children) >= 3  # the nursery, the package's process, and one that decodes
    names = {child.pid: " ".join(child.cmdline()) for child in children}
    nursery = next(pid for pid, name in names.items() if "apart.child" in name)
    for child in children:
        if child.pid != nursery and "resource_tracker" not in names[child.pid]:
            child.kill()
    statuses = [server.ask("/predict", png(PICTURES[0])) for _ in range(2)]
    assert [status for status, _ in statuses] == [200, 200]
    np.testing.assert_allclose(values(statuses[1][1]["predictions"][0]), expected, atol=1e-6)
    assert server.ask("/health")[0] == 200


ATTACKS = ("MLmodel", "artifacts/package/network.py", "artifacts/package/weights.safetensors", "added", "unsigned")


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_altered_directory_is_not_served(signed: Signed, tmp_path: Path, attack: str) -> None:
    """A changed or added file, or no signature, stops the server before anything of the directory is used."""
    folder, marker = shutil.copytree(signed.folder, tmp_path / "model"), tmp_path / "marker"
    poison = f"\nopen({str(marker)!r}, 'w')\n".encode()
    if attack == "unsigned":
        (folder / "model.sig").unlink()
    else:
        path = folder / ("sitecustomize.py" if attack == "added" else attack)
        path.write_bytes((path.read_bytes() if path.exists() else b"") + poison)
    done = CliRunner().invoke(command.app, ["serve", str(folder), "--key", str(signed.key)])
    assert isinstance(done.exception, RefusedError), done.output
    assert not marker.exists()


def test_a_file_that_is_exchanged_while_it_is_read_is_found(
    signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check of the signature and the reading nobody can slip in another package."""
    folder = shutil.copytree(signed.folder, tmp_path / "model")
    verify = directory.signature.verify

    def slow(*arguments: object) -> object:
        found = verify(*arguments)
        with (folder / "artifacts/package/network.py").open("a") as file:
            file.write("# exchanged\n")
        return found

    monkeypatch.setattr(directory.signature, "verify", slow)
    from cxr_ops.edges import signing

    with pytest.raises(RefusedError, match="changed while it was read"):
        directory.read(folder, signing.believed(signed.home))


def test_no_key_no_server(signed: Signed, tmp_path: Path) -> None:
    """A key that did not sign it, and a file that is no key, are refused."""
    for content in (b"no key", None):
        key = tmp_path / "key.pub"
        if content is not None:
            key.write_bytes(content)
        else:
            from cxr_ops.edges import signing

            signing.make_key(tmp_path / "other")
            key = tmp_path / "other.pub"
        done = CliRunner().invoke(command.app, ["serve", str(signed.folder), "--key", str(key)])
        assert isinstance(done.exception, CxrError)


def model_process(server: Server) -> psutil.Process:
    """The process that the package's code runs in: a child of the nursery's."""
    below = psutil.Process(server.process.pid).children(recursive=True)
    nursery = next(one for one in below if "apart.child" in " ".join(one.cmdline()))
    [found] = nursery.children()
    return found


def body_of(count: int) -> bytes:
    pictures = [base64.b64encode(png(PICTURES[n % 8])).decode() for n in range(count)]
    return json.dumps({"images": pictures}).encode()


def counted(server: Server, name: str) -> int:
    return next(int(line.split()[-1]) for line in server.ask("/metrics")[1].splitlines() if line.startswith(name))


def test_a_server_that_is_overrun_says_so_and_goes_on(signed: Signed, tmp_path: Path) -> None:
    """While the model's process hangs, who came in time gets 504 after the limit, who comes then 503, and pictures
    that nobody waits for are not scored; after that 20 pictures are answered in their order, 16 in a batch."""
    with serving(signed, tmp_path, "--seconds", "5", "--max-waiting", "20") as server, ThreadPoolExecutor(1) as caller:
        process = model_process(server)
        process.suspend()
        hanging = caller.submit(server.ask, "/predict", png(PICTURES[0]))
        while counted(server, "cxr_images_under_way") == 0:
            time.sleep(0.01)
        status, told = server.ask("/predict", body_of(20), "application/json")
        assert (status, told) == (503, {"error": "too many pictures are under way", "next": "ask again"})
        assert hanging.result() == (504, {"error": "there was no answer within 5 s"})
        assert counted(server, "cxr_images_under_way") == 0
        given_up = server.ask("/predict", body_of(2), "application/json")
        assert given_up[0] == 504
        process.resume()
        while counted(server, 'cxr_batches_total{size="1"}') == 0:
            time.sleep(0.01)
        status, found = server.ask("/predict", body_of(20), "application/json")
        assert status == 200
        for n, expected in enumerate(scored(signed, [PICTURES[n % 8] for n in range(20)])):
            np.testing.assert_allclose(values(found["predictions"][n]), expected, atol=1e-5)
        assert counted(server, "cxr_images_total") == 20
        batches = {size: counted(server, f'cxr_batches_total{{size="{size}"}}') for size in (1, 2, 4, 16)}
        assert batches == {1: 1, 2: 0, 4: 1, 16: 1}


def test_no_answer_is_given_without_its_receipt(signed: Signed, tmp_path: Path) -> None:
    """Where the log cannot be written, the answer is 503; when it can be again, the next picture is answered."""
    (tmp_path / "logs").mkdir()
    with serving(signed, tmp_path / "logs") as server:
        (tmp_path / "logs").rename(tmp_path / "away")
        status, told = server.ask("/predict", png(PICTURES[0]))
        assert (status, told["error"]) == (503, "the receipt cannot be written: No such file or directory")
        (tmp_path / "away").rename(tmp_path / "logs")
        assert server.ask("/predict", png(PICTURES[0]))[0] == 200
        assert len(receipts.read(server.receipts).receipts) == counted(server, "cxr_images_total") == 1


def test_a_model_that_is_lost_for_good_is_told(signed: Signed, tmp_path: Path) -> None:
    """When the process that models come from is gone, no picture is answered, and health, readiness and metrics say
    that somebody must start the server again."""
    with serving(signed, tmp_path) as server:
        model_process(server).parent().kill()
        status, told = server.ask("/predict", png(PICTURES[0]))
        assert (status, told["next"]) == (503, "ask again")
        status, told = server.ask("/health")
        assert (status, "was killed" in told["error"]) == (503, True)
        assert server.ask("/ready") == (503, {"ready": False})
        assert server.ask("/predict", png(PICTURES[0])) == (
            503,
            {"error": "the model is not loaded", "next": "ask /ready"},
        )
        assert counted(server, "cxr_ready") == 0
