"""A run name or a store that cannot be used fails at once, with one line that says what to do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from aplt.common.artifacts import Checkpoint
from aplt.common.errors import RunError, StoreError
from aplt.common.manifest import Provenance
from aplt.common.objects import Objects
from aplt.common.store import ArtifactStore, split_run_url


def tiny_checkpoint() -> Checkpoint:
    return Checkpoint(epoch=1, weights={"w": np.zeros(3, np.float32)}, state={})


@pytest.mark.parametrize("run", ["", "..", ".hidden", "a/b", "a b", "-x", "ü", "x" * 101, "a\n"])
def test_bad_run_names_are_refused(tmp_path: Path, run: str) -> None:
    with pytest.raises(RunError, match="expected 1 to 100 letters"):
        ArtifactStore(str(tmp_path), run)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("demo", (".", "demo")),
        ("runs/demo", ("runs", "demo")),
        ("runs/demo/", ("runs", "demo")),
        ("/demo", ("/", "demo")),
        ("/data/runs/demo", ("/data/runs", "demo")),
        ("file:///demo", ("file:///", "demo")),
        ("file:///data/demo", ("file:///data", "demo")),
        ("memory://name/demo", ("memory://name", "demo")),
        ("s3://bucket/demo", ("s3://bucket", "demo")),
        ("s3://bucket/x/demo", ("s3://bucket/x", "demo")),
    ],
)
def test_split_run_url(url: str, parts: tuple[str, str]) -> None:
    assert split_run_url(url) == parts


@pytest.mark.parametrize("url", ["", "/", "s3://bucket", "s3://bucket/", "memory://", "file:///", "runs/..", "."])
def test_split_run_url_needs_a_run(url: str) -> None:
    with pytest.raises(RunError):
        split_run_url(url)


def one_line(error: pytest.ExceptionInfo[StoreError]) -> str:
    """The message, which must be one short line that stands alone."""
    (message,) = error.value.args
    assert "\n" not in message
    assert len(message) < 500
    assert error.value.__suppress_context__
    return str(message)


def test_a_file_in_the_way_is_one_clear_error(tmp_path: Path, provenance: Provenance) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as error:
        ArtifactStore(str(tmp_path / "file" / "runs"), "demo")
    assert f"Cannot open the store {tmp_path}/file/runs: Not a directory" in one_line(error)
    (tmp_path / "demo").write_text("")
    with pytest.raises(StoreError) as error:
        ArtifactStore(str(tmp_path), "demo").checkpoints.publish(tiny_checkpoint(), version=1, provenance=provenance)
    assert "Not a directory" in one_line(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_directory_is_one_clear_error(tmp_path: Path, provenance: Provenance) -> None:
    store = ArtifactStore(str(tmp_path), "demo")
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError) as error:
        store.checkpoints.publish(tiny_checkpoint(), version=1, provenance=provenance)
    tmp_path.chmod(0o700)
    assert "Permission denied" in one_line(error)
    assert "choose a directory that this user may write" in one_line(error)


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        ("file://host/x", {}, "names no absolute path"),
        ("nothing://x", {}, "Unable to recognise URL"),
        ("s3://bucket", {"regoin": "x"}, "regoin.* is not valid .*correct the store options"),
        ("s3://bucket", {"timeout": "soon"}, 'failed to parse "soon" as Duration'),
        ("s3://", {}, "Cannot open the store s3://: "),
    ],
)
def test_a_bad_url_or_option_is_one_clear_error(url: str, options: dict[str, str], expected: str) -> None:
    with pytest.raises(StoreError, match=expected) as error:
        ArtifactStore(url, "demo", options=options)
    (message,) = error.value.args
    assert "\n" not in message


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
        patch.setitem(Objects.__init__.__kwdefaults__, "patience_s", 0.3)  # it asks again for so long
        message = message_of_opening("s3://aplt-test/x", options)
    assert "check the endpoint and the network" in message
