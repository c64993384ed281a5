"""An S3 service on loopback, for the tests of stores and of whole runs; and a data set to prepare."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer
from painted_clips import PAINTER, Place

BUCKET = "aplt-test"


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, str]]:
    """The options that reach a loopback S3 service with the bucket BUCKET; credentials are in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }.items():
            patch.setenv(name, value)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
        yield {"endpoint": endpoint, "allow_http": "true"}
        server.stop()


@pytest.fixture
def s3_url() -> str:
    """A place in the bucket that no other test uses."""
    return f"s3://{BUCKET}/{uuid4().hex}/runs"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A data set of painted clips, not prepared yet, and the painter as the module `painter`."""
    (tmp_path / "painter.py").write_text(PAINTER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "painter", raising=False)
    import painter  # type: ignore[import-not-found]

    return Place(tmp_path, painter.paint)
