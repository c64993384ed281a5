"""Whatever of a run is damaged: the service that meets it says so, `aplt store repair` removes it, and both services
come to the same end to the bit. They run as threads of the test: nothing here is about processes."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aplt.common import service
from aplt.common.errors import ApltError, CorruptArtifactError
from aplt.common.service import ROLES, Role
from aplt.common.store import SERIES_NAMES, ArtifactStore
from aplt.deploy.cli import app
from aplt.deploy.config import load_config
from aplt.deploy.display import messages
from aplt.deploy.prepare import prepare_if_needed
from aplt.deploy.runs import open_store
from aplt.deploy.services import run_service
from aplt.labeler import report

pytestmark = pytest.mark.slow
WriteConfig = Callable[..., Path]
Contents = dict[tuple[str, int], str]


@pytest.fixture(autouse=True)
def nothing_that_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(service.RoleClaim.__init__.__kwdefaults__, "lease_s", 0.1)
    monkeypatch.setattr(service, "BEAT_S", 0.05)
    monkeypatch.setattr(report, "_write_charts", lambda *_: [])
    monkeypatch.setattr(report, "_write_sheets", lambda *_: [])


def contents(store: ArtifactStore) -> Contents:
    """The digests of all that a run made, evaluations too."""
    return {
        (name, version): store.series(name).ref(version).digest
        for name in SERIES_NAMES
        for version in store.series(name).versions()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Where the first test that needs it keeps the run that nothing happened to."""
    return {"folder": tmp_path_factory.mktemp("finished")}


@pytest.fixture
def cfg(write_config: WriteConfig, finished: dict[str, Any]) -> Path:
    """The configuration of a copy of the finished run."""
    path = write_config()
    config = load_config(path)
    if "contents" not in finished:
        prepare_if_needed(config, messages())
        serve(path, *ROLES)
        finished["contents"] = contents(open_store(config))
        shutil.copytree(config.store.url, finished["folder"], dirs_exist_ok=True)
    else:
        shutil.copytree(finished["folder"], config.store.url)
    return path


def serve(cfg: Path, *roles: Role) -> None:
    """Run services to their end, side by side."""
    with ThreadPoolExecutor(len(roles)) as pool:
        for done in [pool.submit(run_service, role, load_config(cfg)) for role in roles]:
            done.result()


def rewind(store: ArtifactStore, **newest: int) -> None:
    """Bring a finished run back to a moment when there were no newer versions than these."""
    for name in SERIES_NAMES:
        for version in store.series(name).versions():
            if version > newest[name]:
                store.series(name).remove(version)


def damage(path: Path, how: str) -> None:
    """Flip a bit of a file in its middle, cut it off there, or remove it."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 1
    if how == "remove":
        path.unlink()
    else:
        path.write_bytes(data if how == "flip" else data[:middle])


AT_BOUNDARY = {"checkpoints": 4, "features": 2, "labels": 1, "evaluations": 2}
OVER = {"checkpoints": 5, "features": 3, "labels": 3, "evaluations": 5}


@pytest.mark.parametrize(
    ("name", "moment", "role"),
    [
        pytest.param("checkpoints/v000003", AT_BOUNDARY | {"checkpoints": 3}, "trainer", id="newest checkpoint"),
        pytest.param("checkpoints/v000003", AT_BOUNDARY, "labeler", id="checkpoint that labels come from"),
        pytest.param("checkpoints/v000005", OVER | {"evaluations": 4}, "labeler", id="last checkpoint"),
        pytest.param("features/v000002", AT_BOUNDARY, "labeler", id="features"),
        pytest.param("labels/v000001", AT_BOUNDARY | {"checkpoints": 2}, "trainer", id="labels to be used"),
        pytest.param("labels/v000001", AT_BOUNDARY | {"evaluations": 0}, "labeler", id="labels in use"),
        pytest.param("labels/v000003", OVER, "labeler", id="last labels"),
        pytest.param("evaluations/v000003", OVER, "labeler", id="evaluation"),
        pytest.param("run.json", AT_BOUNDARY, "trainer", id="configuration"),
        pytest.param("data.json", AT_BOUNDARY, "labeler", id="data"),
    ],
)
def test_damage_is_told_repaired_and_leaves_no_trace(
    cfg: Path, finished: dict[str, Any], request: pytest.FixtureRequest, name: str, moment: dict[str, int], role: Role
) -> None:
    store = open_store(load_config(cfg))
    rewind(store, **moment)
    assert store.local_path is not None
    draws = random.Random(request.node.callspec.id)
    whole = store.local_path / name
    files = [whole] if whole.is_file() else sorted(path for path in whole.rglob("*") if path.is_file())
    path = draws.choice(files)
    removable = path.suffix != ".json" or path.name == "zarr.json"  # without its manifest there is no version
    damage(path, draws.choice(["flip", "truncate", "remove"] if removable else ["flip", "truncate"]))

    with pytest.raises(CorruptArtifactError, match=re.escape(str(path.relative_to(store.local_path)))) as error:
        serve(cfg, role)
    assert f"`aplt store repair {store.local_path}`" in str(error.value)
    assert "\n" not in str(error.value)
    assert any(str(path.relative_to(store.local_path)) in problem for problem in store.verify())

    command = CliRunner()
    kept = command.invoke(app, ["store", "repair", str(store.local_path)], input="n\n")
    assert kept.exit_code == 1
    assert name.split("/")[0] in kept.output
    assert store.verify() != []
    repaired = command.invoke(app, ["store", "repair", str(store.local_path), "--yes"])
    assert repaired.exit_code == 0, repaired.output
    serve(cfg, *ROLES)
    assert contents(store) == finished["contents"]
    assert store.verify() == []
    again = command.invoke(app, ["store", "repair", str(store.local_path)])
    assert (again.exit_code, again.output) == (0, f"{store.run}: nothing is damaged\n")


def test_notes_of_services_are_not_needed(cfg: Path, finished: dict[str, Any]) -> None:
    store = open_store(load_config(cfg))
    rewind(store, **AT_BOUNDARY)
    store.write_json("services/starts.json", {"trainer": 0})
    store.write_json("services/trainer/stop.json", {"claim": 1})
    assert store.local_path is not None
    notes = sorted((store.local_path / "services").rglob("*.json"))
    assert len(notes) == 6
    for number, path in enumerate(notes):
        damage(path, ["flip", "truncate"][number % 2])
    serve(cfg, *ROLES)
    assert contents(store) == finished["contents"]


def test_a_lost_configuration_is_recorded_again_but_no_other_one(write_config: WriteConfig, cfg: Path) -> None:
    store = open_store(load_config(cfg))
    rewind(store, **AT_BOUNDARY)
    store.delete("run.json")
    with pytest.raises(ApltError, match=r"has lost its run\.json, and was made with another configuration"):
        serve(write_config("other.yaml", trainer={"lr": 0.5}), "trainer")
    assert store.read_json("run.json") is None
    serve(cfg, *ROLES)
    assert store.read_json("run.json") is not None


def test_a_run_at_work_is_not_repaired(cfg: Path) -> None:
    store = open_store(load_config(cfg))
    with service.RoleClaim(store, "labeler"):
        refused = CliRunner().invoke(app, ["store", "repair", str(cfg)])
    assert refused.exit_code == 1
    assert f"Stop it first: `aplt stop all {cfg}`" in refused.output


def test_old_versions_go_and_nothing_changes(cfg: Path, finished: dict[str, Any]) -> None:
    store = open_store(load_config(cfg))
    command = CliRunner()
    planned = command.invoke(app, ["store", "gc", str(cfg), "--keep", "1", "--dry-run"])
    assert f"{store.run}: would remove 3 checkpoints (1, 2, 3)" in planned.output
    assert f"{store.run}: would remove 2 features (1, 2)" in planned.output
    assert contents(store) == finished["contents"]

    rewind(store, **AT_BOUNDARY)
    removed = command.invoke(app, ["store", "gc", str(cfg), "--keep", "1"])
    assert removed.exit_code == 0, removed.output
    assert store.features.versions() == [1, 2]  # the newest labels are made from 1, the next ones from 2
    assert store.checkpoints.versions() == [1, 3, 4]
    cfg.write_text(cfg.read_text().replace("keep_checkpoints: all", "keep_checkpoints: needed"))
    serve(cfg, *ROLES)
    kept = contents(store)
    assert kept.items() <= finished["contents"].items()
    assert store.checkpoints.versions() == [3, 4, 5]
    assert store.features.versions() == store.labels.versions()[-2:] == [2, 3]
    assert store.evaluations.versions() == [1, 2, 3, 4, 5]
    assert store.verify() == []
