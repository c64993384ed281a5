"""A run in the store: made once with its configuration, found again by its address, never silently reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import JsonValue

from aplt.common.config import MAY_CHANGE, config_digest, identity
from aplt.common.data.prepared import PreparedData
from aplt.common.errors import RunError
from aplt.common.service import ROLES, Role, is_alive, read_status
from aplt.common.store import ArtifactStore, split_run_url
from aplt.deploy.config import RunConfig, load_config, parse_config

RECORD = "run.json"
DATA = "data.json"


def open_store(config: RunConfig) -> ArtifactStore:
    """Return the store of the run that `config` names."""
    return ArtifactStore(config.store.url, config.run, options=config.store.options)


def run_url(config: RunConfig) -> str:
    """Return the address under which every other command finds the run."""
    return f"{config.store.url.rstrip('/')}/{config.run}"


def records_folder(config: RunConfig) -> Path:
    """Return where JSON lines, TensorBoard events and logs go: into the run's folder if it has one, or ./records."""
    folder = _local_folder(config.store.url)
    return Path("records") / config.run if folder is None else folder / config.run / "records"


def create_or_resume(config: RunConfig, *, resume: bool, join: bool = False) -> ArtifactStore:
    """Record a new run, or go on with one; returns its store.

    Args:
        config: The configuration to record, or to compare with the recorded one.
        resume: The user means to go on with a run that exists.
        join: A run that exists with the same configuration is fine (a second service of it starts).

    Raises:
        RunError: the name is taken and `resume` was not said, or the recorded configuration computes something else.
    """
    store = open_store(config)
    values = config.model_dump(mode="json")
    _refuse_other_origin(store, config_digest(values), go_on=resume or join)
    record: dict[str, JsonValue] = {
        "schema": 1,
        "run": config.run,
        "created_at": datetime.now(UTC).isoformat(),
        "code_version": code_version(),
        "config_digest": config_digest(values),
        "config": values,
    }
    if store.create_json(RECORD, record):
        return store
    if not (resume or join):
        made_at = (store.read_json(RECORD) or {}).get("created_at", "earlier")
        raise RunError(
            f"run {config.run} exists already in {config.store.url} (made {made_at}). "
            "Go on with it by --resume, or choose a new name with --set run=NAME"
        )
    # Parsed, so that a setting that came later than the run has its default there too.
    difference = describe_difference(recorded_config(store).model_dump(mode="json"), values)
    if difference:
        raise RunError(
            f"run {config.run} was made with another configuration: {difference}. "
            "Use the old settings, or a new name with --set run=NAME"
        )
    return store


def find_run(run: str, *, options: Mapping[str, str] | None = None) -> tuple[ArtifactStore, RunConfig]:
    """Return store and recorded configuration of a run, named by its address or by its configuration file.

    What does not change the run (where the clips and the store are, devices, ...) comes from the file if one is given.

    Raises:
        RunError: there is no such run.
    """
    given = load_config(Path(run)) if run.endswith((".yaml", ".yml")) else None
    store = locate_run(run, options=options)
    url, name, options = store.url, store.run, given.store.options if given else options
    record = store.read_json(RECORD)
    if record is None:
        there = runs_in(url, options=options)
        raise RunError(f"there is no run {name} in {url}; " + (f"there are {', '.join(there)}" if there else "none is"))
    values = record["config"]
    values["store"] |= {"url": store.url, "options": dict(options or values["store"]["options"])}
    if given is not None:
        _take_over(given.model_dump(mode="json"), values, MAY_CHANGE)
    return store, parse_config(values, source=f"{store.url}/{name}/{RECORD}")


def recorded_config(store: ArtifactStore) -> RunConfig:
    """Return the configuration that a run recorded.

    Raises:
        RunError: it recorded none.
    """
    record = store.read_json(RECORD)
    if record is None:
        raise RunError(f"run {store.run} in {store.url} has no {RECORD}; start one of its services, which records it")
    return parse_config(record["config"], source=f"{store.url}/{store.run}/{RECORD}")


def locate_run(run: str, *, options: Mapping[str, str] | None = None) -> ArtifactStore:
    """Return the store of a run, named by its address or by its configuration file; its record may be lost.

    Raises:
        RunError: there is no such folder.
    """
    if run.endswith((".yaml", ".yml")):
        given = load_config(Path(run))
        url, name, options = given.store.url, given.run, given.store.options
    else:
        url, name = split_run_url(run)
    folder = _local_folder(url)
    if folder is not None and not folder.is_dir():  # opening a store would make it
        raise RunError(f"there is no run {name} in {url}: there is no such folder")
    return ArtifactStore(url, name, options=options)


def refuse_if_working(store: ArtifactStore, cure: str, roles: tuple[Role, ...] = ROLES) -> None:
    """Raise RunError if one of these services of the run is alive; `cure` says what to do then."""
    for role in roles:
        status = read_status(store, role)
        if status is not None and not status.ended and is_alive(status):
            raise RunError(f"run {store.run} is at work: {status.describe()}. {cure}")


def runs_in(url: str, *, options: Mapping[str, str] | None = None) -> list[str]:
    """Return the names of the runs in the store at `url`; none if there is no such folder."""
    folder = _local_folder(url)
    if folder is not None:  # any folder may be asked about, also one full of other things
        return sorted(record.parent.name for record in folder.glob(f"*/{RECORD}"))
    return [
        run
        for run in ArtifactStore.runs(url, options=options)
        if ArtifactStore(url, run, options=options).read_bytes(RECORD) is not None
    ]


def record_data(store: ArtifactStore, data: PreparedData) -> None:
    """Write into the run which data it works with and the names of its classes, or check that they are still the same.

    Raises:
        RunError: the data were prepared in another way since the run began, so row numbers mean other clips.
    """
    if store.create_json(DATA, {"digest": data.digest, "class_names": list(data.class_names)}):
        return
    recorded = store.read_json(DATA) or {}
    if recorded.get("digest") != data.digest:
        raise RunError(
            f"run {store.run} began with other prepared data (clips, splits or decoding changed since). "
            "Give data.prepared the folder it began with, undo the change, or start a new run with --set run=NAME"
        )


def class_names(store: ArtifactStore, config: RunConfig) -> list[str]:
    """Return the names of the classes, from the run or else from the prepared data.

    Raises:
        DataError: neither has them.
    """
    recorded = store.read_json(DATA)
    if recorded is not None:
        return [str(name) for name in recorded["class_names"]]
    return list(PreparedData.open(config.data.folder, config.data.split_name).class_names)


def is_run(run: str) -> bool:
    """Whether this names one run; a folder that holds runs does not."""
    if run.endswith((".yaml", ".yml")):
        return True
    try:
        url, name = split_run_url(run)
    except RunError:  # the address of a store alone, such as s3://bucket
        return False
    folder = _local_folder(url)
    exists = folder is None or folder.is_dir()
    return (exists and ArtifactStore(url, name).read_bytes(RECORD) is not None) or not runs_in(run)


def describe_difference(recorded: dict[str, Any], given: dict[str, Any]) -> str:
    """Return how two configurations differ in what a run computes; empty if they do not."""
    old, new = identity(recorded), identity(given)
    changed = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
    return "; ".join(f"{path} was {old.get(path)!r}, is {new.get(path)!r}" for path in changed)


def code_version() -> str:
    """Return the installed version of aplt."""
    return version("aplt")


def _refuse_other_origin(store: ArtifactStore, digest: str, *, go_on: bool) -> None:
    """Raise RunError if the run has lost its record, and its checkpoints are not of this configuration."""
    newest = None if store.read_json(RECORD) is not None else store.checkpoints.latest()
    if newest is None:
        return
    if not go_on:
        raise RunError(f"run {store.run} has checkpoints in {store.url} already. Go on with it by --resume")
    if store.checkpoints.manifest(newest.version).provenance.config_digest != digest:
        raise RunError(
            f"run {store.run} has lost its {RECORD}, and was made with another configuration. "
            "Start it with the settings that it began with, or take a new name with --set run=NAME"
        )


def _local_folder(url: str) -> Path | None:
    """Return the folder of a store on disk, None for any other store."""
    parts = urlsplit(url)
    return Path(unquote(parts.path) if parts.scheme else url).expanduser() if parts.scheme in ("", "file") else None


def _take_over(source: dict[str, Any], target: dict[str, Any], paths: Sequence[str]) -> None:
    """Copy the settings at dotted `paths` from one nested configuration to another."""
    for path in paths:
        *sections, key = path.split(".")
        from_section, to_section = source, target
        for section in sections:
            from_section, to_section = from_section[section], to_section[section]
        to_section[key] = from_section[key]
