"""What is kept of a finished cell: one small JSON file, from which alone all tables and figures are made.

A record counts for every cell whose settings it has. Settings that aplt got after a record was written count as their
defaults, so that a record outlives the versions of aplt that change nothing in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError, model_validator

from aplt.common.config import NAMED_INITS, BaseRunConfig, identity
from aplt.common.data.manifest import write_text
from aplt.common.data.prepared import PreparedData, load_truth
from aplt.common.errors import DataError
from aplt.common.service import ROLES, read_spans
from aplt.common.store import ArtifactStore
from aplt.deploy.config import RunConfig, config_of
from aplt.deploy.runs import code_version

SCHEMA = 1
HEADS = ("head", "prototypes")
SERIES = (
    *("head/accuracy", "head/macro", "prototypes/accuracy", "prototypes/macro"),
    *("online/precision", "online/passed_share", "labels/precision", "labels/accuracy_all"),
)
"""The scalars of evaluations that a record keeps for every epoch."""
DRAWN = ("online/precision", "online/passed_share", "labels/precision", "labels/kept_share")
"""What figures show of it; the last comes from the label versions."""

Record = dict[str, Any]
Settings = dict[str, Any]


class _Summary(BaseModel):
    classes: list[str]
    clips: dict[Literal["labelled", "unlabelled", "test"], int] = Field(min_length=3)
    epochs: int
    final: dict[str, Any]
    final_by_class: list[dict[str, Any]]


class _Kept(BaseModel):
    """What tables and figures read of a record; there is more in one."""

    schema_: Literal[1] = Field(alias="schema")
    row: str
    data: str
    settings: Settings
    tested: str
    code_version: str
    hardware: str
    wall_s: float
    clips_seen: dict[str, int]
    summary: _Summary
    by_epoch: dict[str, dict[int, float]]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        final = self.summary.final.get(self.tested, {})
        if final is not None and not {"accuracy", "macro"} <= set(final):
            raise ValueError(f"summary.final has no accuracy of {self.tested}")
        if any({"class", self.tested} - row.keys() for row in self.summary.final_by_class):
            raise ValueError(f"summary.final_by_class has no accuracy of {self.tested}")
        if missing := set(DRAWN) - self.by_epoch.keys():
            raise ValueError(f"by_epoch has no {sorted(missing)[0]}")
        return self


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A run of the grid: a row of a table, a share of labels and a seed."""

    row: str
    ratio: float | None
    """Per cent of the training clips that show their label; None: as the configuration says."""
    seed: int
    config: RunConfig
    data: str | None
    """Digest of the prepared clips; None where they are not at hand: then any clips will do."""

    @cached_property
    def settings(self) -> Settings:
        """What decides what the run computes."""
        return deciding_settings(self.config)

    @cached_property
    def name(self) -> str:
        """Of the record, the log and the run: readable, and another one for other settings."""
        text = json.dumps([self.settings, self.data], sort_keys=True)
        share = "as-is" if self.ratio is None else f"{self.ratio:g}"
        return f"{self.row}-{share}-seed{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def named(self) -> Cell:
        """Return the cell with a run that is called like it."""
        return replace(self, config=self.config.model_copy(update={"run": self.name}))

    def is_of(self, record: Record) -> bool:
        """Whether the record is of a run that computed just this."""
        known, defaults = record["settings"], _default_settings(self.config.method.name)
        return (
            self.data in (None, record["data"])
            and known.keys() <= self.settings.keys()
            and all(value == known.get(name, defaults.get(name)) for name, value in self.settings.items())
        )


def deciding_settings(config: RunConfig) -> Settings:
    """Return the settings that decide what a run computes, as dotted names.

    The settings of the labels are not among those of a method that trains without any. Weights that a run starts from
    count by their content, wherever they lie; by their path where they are not at hand.
    """
    settings = identity(config.model_dump(mode="json"))
    if config.model.init not in NAMED_INITS:
        settings["model.init"] = _weights(Path(config.model.init))
    unused = ["run"]
    if not config.method.uses_labels:
        unused += ["labeler.", "features.", "schedule.phase_epochs", "schedule.lead_epochs"]
    return {name: value for name, value in settings.items() if not name.startswith(tuple(unused))}


def _weights(path: Path) -> str:
    """Return the digest of a weight file or of a published checkpoint, whose manifest has the digests of its files."""
    path = path / "manifest.json" if path.is_dir() else path
    try:
        state = path.stat()
        return _file_digest(path, state.st_mtime_ns, state.st_size)
    except OSError:
        return str(path)


@cache
def _file_digest(path: Path, changed_ns: int, size: int) -> str:
    """Return it; read once for all cells while time of change and size stay."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


@cache
def _default_settings(method: str) -> Settings:
    values = {"run": "default", "data": {"root": "."}, "method": {"name": method}}
    return deciding_settings(config_of(values, (), folder=Path(), source="defaults"))


def read_records(folder: Path) -> list[Record]:
    """Return the records in a folder, in the order of their names.

    Raises:
        DataError: a file there is no record, or one of a newer version of aplt.
    """
    return [_read_record(path) for path in sorted(folder.glob("*.json"))]


def _read_record(path: Path) -> Record:
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        _Kept.model_validate(record)
    except ValidationError as error:
        fault = error.errors()[0]
        why = ": ".join(filter(None, [".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")]))
    except (OSError, ValueError) as error:
        why = str(error)
    else:
        return record
    raise DataError(f"{path} is not a record of `aplt benchmark` of this version ({why}): remove it or move it away")


def write_record(path: Path, record: Record) -> None:
    """Write a record, a line for each of its parts, at once and over any that was there."""
    lines = [f" {json.dumps(name)}: {json.dumps(record[name], sort_keys=True)}" for name in sorted(record)]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def final_accuracy(record: Record, kind: str = "accuracy") -> float | None:
    """Return accuracy, or `macro` the mean over classes, of the classifier that the method is tested with."""
    final = record["summary"]["final"][record["tested"]]
    return None if final is None else float(final[kind])


def find_record(cell: Cell, records: Sequence[Record]) -> Record | None:
    """Return the record of a cell, None if it has not run."""
    return next((record for record in records if cell.is_of(record)), None)


def make_record(cell: Mapping[str, Any], config: RunConfig, store: ArtifactStore, data: PreparedData) -> Record:
    """Return the record of a run that both services have finished.

    Args:
        cell: `row`, `ratio`, `seed`, `data` and `settings` of the cell.
        config: Of the run.
        store: Of the run.
        data: That it ran on.
    """
    summary = store.read_json("report/summary.json") or {}
    scalars = {epoch: store.evaluations.load(epoch).scalars for epoch in store.evaluations.versions()}
    kept = {
        labels["from_epoch"]: round(labels["kept_share"], 4)
        for labels in summary["labels"]
        if labels["kept_share"] is not None
    }
    return {
        "schema": SCHEMA,
        **cell,
        "method": config.method.name,
        "tested": config.method.tested_head,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "code_version": code_version(),
        "hardware": hardware(),
        "threads": {"trainer": config.trainer.threads, "labeler": config.labeler.threads},
        "wall_s": round(busy_seconds(store), 1),
        "clips_seen": clips_seen(config, data),
        "summary": {key: value for key, value in summary.items() if key not in ("run", "pictures", "where_next")},
        "confusion": _confusions(config, store, data),
        "by_epoch": {
            name: {epoch: round(values[name], 4) for epoch, values in scalars.items() if name in values}
            for name in SERIES
        }
        | {"labels/kept_share": kept},
    }


def busy_seconds(store: ArtifactStore) -> float:
    """Return how long at least one service was at work: pauses of an interrupted run are not in it."""
    spans = sorted(
        (float(span["start"]), float(span["start"]) + float(span["seconds"]))
        for role in ROLES
        for span in read_spans(store, role)
    )
    total, until = 0.0, 0.0
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def clips_seen(config: BaseRunConfig, data: PreparedData) -> dict[str, int]:
    """Return how many clips training went through, each as often as it came up, labelled and unlabelled."""
    from aplt.trainer.methods import METHODS
    from aplt.trainer.order import steps_per_epoch

    batch, mu = config.trainer.batch_size, config.trainer.mu
    steps = config.plan().total_epochs * steps_per_epoch(len(data.unlabeled_rows_N), batch_size=batch, mu=mu)
    unlabeled = METHODS[config.method.name].uses_unlabeled and len(data.unlabeled_rows_N) > 0
    return {"labelled": steps * batch, "unlabelled": steps * batch * mu if unlabeled else 0}


def hardware() -> str:
    """Return processor, cores, GPUs and the version of torch in words."""
    import torch

    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join([cpu, f"{os.cpu_count()} cores", *gpus, f"torch {torch.__version__}"])


def _confusions(config: RunConfig, store: ArtifactStore, data: PreparedData) -> dict[str, list[list[int]]]:
    """Return by head how many test clips of each class (row) were taken for which class (column) in the end."""
    arrays = store.evaluations.load(config.plan().total_epochs).arrays
    truth_T = load_truth(config.data.folder)[arrays["rows"]]
    return {
        head: confusion(truth_T, arrays[head], num_classes=len(data.class_names)).tolist()
        for head in HEADS
        if head in arrays
    }


def confusion(truth_T: NDArray[np.int16], predictions_T: NDArray[np.int16], *, num_classes: int) -> NDArray[np.int64]:
    """Return counts [class, prediction] over the clips whose class is known (not -1)."""
    known = truth_T >= 0
    counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (truth_T[known], predictions_T[known]), 1)
    return counts
