"""What all that ask an S3 server share: what an address names, and a client that asks no proxy for this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cxr_ops.edges import loopback

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def split(address: str) -> tuple[str, str]:
    """The bucket and the prefix that an address names; the prefix ends with a slash, or is empty.

    >>> split("s3://bucket/a/b"), split("s3://bucket")
    (('bucket', 'a/b/'), ('bucket', ''))
    """
    bucket, _, path = address.removeprefix("s3://").partition("/")
    path = path.strip("/")
    return bucket, f"{path}/" if path else ""


def client(endpoint: str | None, **config: Any) -> S3Client:
    """A client of the server at an address.

    Args:
        endpoint: of the server; None: Amazon's.
        config: what botocore's `Config` takes.
    """
    import boto3
    from botocore.config import Config

    loopback.shield([endpoint] if endpoint else ())
    return boto3.session.Session().client("s3", endpoint_url=endpoint, config=Config(**config))
