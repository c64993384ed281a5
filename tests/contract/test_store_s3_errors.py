"""An S3 store that cannot be used fails when it is opened, with one line that says what to do."""

from __future__ import annotations

import pytest

from aplt.common.errors import StoreError
from aplt.common.store import ArtifactStore


def message_of_opening(url: str, options: dict[str, str]) -> str:
    with pytest.raises(StoreError) as error:
        ArtifactStore(url, "demo", options=options)
    (message,) = error.value.args
    assert "\n" not in message
    assert len(message) < 500
    assert message.startswith(f"Cannot list the store {url}: ")
    assert error.value.__suppress_context__
    return str(message)


def test_missing_bucket(s3_options: dict[str, str]) -> None:
    message = message_of_opening("s3://no-such-bucket/x", s3_options)
    assert "NoSuchBucket" in message
    assert "create the bucket or correct the URL" in message


@pytest.mark.usefixtures("unknown_keys")
def test_wrong_credentials(s3_options: dict[str, str]) -> None:
    message = message_of_opening("s3://aplt-test/x", s3_options)
    assert "InvalidAccessKeyId" in message
    assert "check AWS_ACCESS_KEY_ID" in message


def test_http_endpoint_needs_leave(s3_options: dict[str, str]) -> None:
    message = message_of_opening("s3://aplt-test/x", {"endpoint": s3_options["endpoint"]})
    assert "allow_http=true" in message


def test_nobody_listens() -> None:
    options = {"endpoint": "http://127.0.0.1:9", "allow_http": "true", "region": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        message = message_of_opening("s3://aplt-test/x", options)
    assert "check the endpoint and the network" in message
