"""Files made by somebody who means harm: nothing in them is run, and no name leads out of its folder."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aplt.common.data.datasets.table import read_table
from aplt.common.errors import ApltError, ConfigError, CorruptArtifactError, DataError
from aplt.common.manifest import ArtifactManifest, Provenance, describe_object, write_manifest
from aplt.common.models.weights import read_weights
from aplt.common.store import ArtifactStore
from aplt.deploy.config import load_config


class Payload:
    """An object that, when it is unpickled, leaves a file behind."""

    def __init__(self, proof: Path) -> None:
        self._proof = proof

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return subprocess.call, (["touch", str(self._proof)],)


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """The file that is there if a payload was run; the payload works."""
    path = tmp_path / "proof"
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.exists()
    path.unlink()
    return path


def npy(proof: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Payload(proof)], dtype=object), allow_pickle=True)
    return file.getvalue()


@pytest.fixture
def store(tmp_path: Path, records: dict[str, Any], provenance: Provenance) -> ArtifactStore:
    store = ArtifactStore(str(tmp_path / "runs"), "demo")
    for name, record in records.items():
        store.series(name).publish(record, version=3, provenance=provenance)
    return store


def forge(store: ArtifactStore, series: str, planted: dict[str, bytes], **changes: Any) -> None:
    """Put objects into version 3, with a manifest whose digests and checksum are right."""
    manifest = store.series(series).manifest(3)
    entries = dict(manifest.objects)
    for name, data in planted.items():
        store.write_bytes(f"{series}/v000003/{manifest.attempt}/{name}", data)
        entries[name] = describe_object(data)
    forged = ArtifactManifest.model_construct(**{**dict(manifest), "objects": entries, **changes})
    store.write_bytes(f"{series}/v000003/manifest.json", write_manifest(forged))


@pytest.mark.parametrize("kind", ["pickle", "npy", "torch"])
@pytest.mark.parametrize(
    ("series", "name"),
    [
        ("checkpoints", "weights.safetensors"),
        ("checkpoints", "state.safetensors"),
        ("checkpoints", "data.zarr/online_labels_N/c/0"),
        ("features", "data.zarr/features_ND/c/0/0"),
        ("labels", "data.zarr/rows_N/zarr.json"),
        ("evaluations", "data.zarr/predictions/c/0"),
    ],
)
def test_no_object_of_a_version_is_run(store: ArtifactStore, proof: Path, series: str, name: str, kind: str) -> None:
    file = io.BytesIO()
    torch.save(Payload(proof), file)
    data = {"pickle": pickle.dumps(Payload(proof)), "npy": npy(proof), "torch": file.getvalue()}[kind]
    forge(store, series, {name: data})
    with pytest.raises(CorruptArtifactError, match="does not decode"):
        store.series(series).load(3)
    assert not proof.exists()


@pytest.mark.parametrize("codec", ["pickle", "numcodecs.pickle", "os.system"])
def test_no_codec_runs_code(store: ArtifactStore, proof: Path, codec: str) -> None:
    manifest = store.labels.manifest(3)
    name = "data.zarr/rows_N/zarr.json"
    metadata = json.loads(store.read_bytes(f"labels/v000003/{manifest.attempt}/{name}") or b"")
    metadata["codecs"].append({"name": codec, "configuration": {"id": codec, "command": f"touch {proof}"}})
    forge(store, "labels", {name: json.dumps(metadata).encode(), "data.zarr/rows_N/c/0": pickle.dumps(Payload(proof))})
    with pytest.raises(CorruptArtifactError, match="does not decode"):
        store.labels.load(3)
    assert not proof.exists()


def outside(store: ArtifactStore, changes: Callable[[ArtifactManifest], dict[str, Any]]) -> str:
    """What loading says of a manifest with these changes."""
    forge(store, "labels", {}, **changes(store.labels.manifest(3)))
    with pytest.raises(CorruptArtifactError) as error:
        store.labels.load(3)
    (message,) = error.value.args
    assert "\n" not in message
    return str(message)


@pytest.mark.parametrize(
    "name", ["../../../secret", "/etc/passwd", "a/../../b", "..", ".", "a//b", "a/", "", "a\\..\\b"]
)
def test_object_names_stay_in_their_folder(store: ArtifactStore, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    assert "has a bad field objects." in outside(store, lambda manifest: {"objects": {name: describe_object(b"x")}})
    assert store.labels.damage(3) != []
    store.labels.remove(3)
    assert (tmp_path / "secret").read_bytes() == b"x"


@pytest.mark.parametrize("attempt", ["..", "../../v000001", "/etc", "a/b", ""])
def test_attempts_stay_in_their_version(store: ArtifactStore, attempt: str) -> None:
    assert "has a bad field attempt" in outside(store, lambda manifest: {"attempt": attempt})


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_weight_files_are_data(tmp_path: Path, proof: Path, suffix: str) -> None:
    for number, save in enumerate((torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2)))):
        path = tmp_path / f"weights-{number}{suffix}"
        save({"fc.weight": Payload(proof)}, path)
        with pytest.raises(ConfigError, match="cannot be read as weights") as error:
            read_weights(path)
        assert "\n" not in str(error.value)
    assert not proof.exists()


def test_a_checkpoint_folder_does_not_lead_elsewhere(tmp_path: Path, store: ArtifactStore) -> None:
    assert store.local_path is not None
    folder = store.local_path / "checkpoints" / "v000003"
    assert set(read_weights(folder)) == {"head.weight", "bn.num_batches_tracked"}
    for manifest in ('{"attempt": "../v000009/x"}', '{"attempt": 7}', "{", "[]", "{}"):
        (folder / "manifest.json").write_text(manifest)
        with pytest.raises(ConfigError, match=r"manifest\.json is damaged"):
            read_weights(folder)


def test_settings_are_data(tmp_path: Path, proof: Path) -> None:
    for text in (f"!!python/object/apply:os.system ['touch {proof}']", "run: !!python/name:os.system"):
        (tmp_path / "cfg.yaml").write_text(text)
        with pytest.raises(ConfigError):
            load_config(tmp_path / "cfg.yaml")
    assert not proof.exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.mp4", "a/../../secret.mp4", "a/..", "."])
def test_tables_name_files_inside_the_root_alone(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (tmp_path / "labels.csv").write_text(f"clip,label\n{path},wave\n")
    with pytest.raises(DataError, match=r"must name a file inside data.root, relative to it and without `..`"):
        read_table(root, tmp_path / "labels.csv")


@pytest.mark.parametrize("run", ["../other", "/etc", "a/../b", "..", ".ssh", "a\0b", "a\nb"])
def test_run_names_stay_in_the_store(tmp_path: Path, run: str) -> None:
    with pytest.raises(ApltError):
        ArtifactStore(str(tmp_path), run)
