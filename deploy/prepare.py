"""Clips to a prepared folder (manifest, splits, clip cache), with progress that people can follow."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from aplt.common.config import DataConfig
from aplt.common.data.datasets import read_source
from aplt.common.data.estimate import estimate
from aplt.common.data.frames import FrameSpec, Job
from aplt.common.data.manifest import write_text
from aplt.common.data.mirrored import is_sided, mirrored_pairs
from aplt.common.data.prepare import PrepareProgress, PrepareReport, add_split, prepare
from aplt.common.data.prepared import PREPARED, QUARANTINE, PreparedData
from aplt.common.data.remote import Tick, fetch, push
from aplt.common.data.source import Source
from aplt.common.errors import ConfigError
from aplt.deploy.config import DATA, PREPARING, RunConfig, data_config, nested, read_yaml
from aplt.deploy.display import duration
from aplt.deploy.proposal import data_proposal
from aplt.deploy.survey import look_at

_SAYING = {
    "waiting": "waiting for another process that prepares the same folder",
    "scanning": "looking at videos",
    "decoding": "decoding clips",
}
LINE_EVERY_S = 5.0
"""On anything but a terminal, progress is a line so often."""


def prepare_if_needed(config: RunConfig, console: Console, *, own_split: bool = False) -> PreparedData:
    """Return the prepared data of a configuration, after doing whatever of it is missing.

    Where the clips are not, what was prepared elsewhere is used. Data in an object store are brought up to date there,
    for the services on other machines. With `own_split`, the split is one of many and not what the folder is for: the
    settings that were recorded there for the same clips stay.

    Raises:
        DataError: the clips or labels are missing or unusable.
    """
    data = config.data
    if data.root.is_dir():
        _tell(run_prepare(data, console, own_split=own_split), data, console)
    elif data.url is not None or (data.folder / PREPARED).is_file():
        console.print(f"{data.root} is not here; using what was prepared in {data.prepared}")
        if data.url is not None:
            with _transfer(console, f"fetching {data.url}") as tick:
                fetch(data.url, data.folder, config.store.options, tick=tick)
        if data.split is None:
            add_split(data.folder, data.rules)
    push_prepared(data, config.store.options, console)
    return open_prepared(data)


def push_prepared(data: DataConfig, options: Mapping[str, str], console: Console) -> None:
    """Send what was prepared to the object store that `data.prepared` names, if it does and has not got it."""
    if data.url is not None:
        with _transfer(console, f"sending prepared clips to {data.url}") as tick:
            push(data.folder, data.url, options, tick=tick)


def _tell(report: PrepareReport, data: DataConfig, console: Console) -> None:
    if report.decoded_now:
        console.print(f"prepared {report.num_clips} clips in {duration(report.seconds)}")
    if report.missing:
        console.print(f"{len(report.missing)} clips are not in {data.root}, such as {report.missing[0]}", markup=False)
    if report.quarantined:
        first_id, reason = report.quarantined[0]
        console.print(
            f"{len(report.quarantined)} clips cannot be decoded and are left out, such as {first_id}: {reason}. "
            f"All are in {data.folder / QUARANTINE}",
            markup=False,
        )


def open_prepared(data: DataConfig) -> PreparedData:
    """Return the prepared data that these settings name."""
    return PreparedData.open(data.folder, data.split_name)


def propose_data(adapter: str, given: Mapping[str, Any], overrides: Sequence[str]) -> DataConfig:
    """Return settings for preparing a data set: those given (dotted names), and for the rest what suits its clips.

    Raises:
        ConfigError: a setting is wrong.
        DataError: the data set cannot be read.
    """
    asked = data_config(nested({"adapter": adapter, **given}), overrides, folder=Path(), source="aplt data prepare")
    survey = look_at(
        asked.root,
        adapter=adapter,
        subset=asked.subset,
        options=asked.options,
        labels=asked.labels,
        group_regex=asked.group_regex,
    )
    suited = data_proposal(survey) | {"adapter": adapter, **given}
    return data_config(nested(suited), overrides, folder=Path(), source="aplt data prepare")


def run_prepare(data: DataConfig, console: Console, *, verify: bool = False, own_split: bool = False) -> PrepareReport:
    """Return what there is after preparing; what is there already is not done again, unless `verify` finds damage."""
    source = _source(data)
    check_flip([one.name for one in source.classes], data, console)
    with _progress(console) as progress:
        report = prepare(
            source,
            root=data.root,
            prepared=data.folder,
            rules=None if data.split else data.rules,
            num_segments=data.num_frames,
            frames_per_segment=data.frames_per_segment,
            size=data.clip_size,
            fit=data.fit,
            workers=data.workers,
            timeout_s=data.timeout_s,
            max_bad_share=data.max_bad_share,
            verify=verify,
            progress=progress,
        )
    # Whoever finds this folder later means its test clips, not those that settings were chosen on.
    settings = data.model_dump(mode="json", exclude={"validation"})
    if not (own_split and _is_recorded(data.folder / DATA, settings)):
        write_text(data.folder / DATA, yaml.safe_dump({"data": settings}, sort_keys=False))
    return report


def _is_recorded(path: Path, settings: Mapping[str, Any]) -> bool:
    """Whether settings that give the same decoded clips are recorded."""
    recorded = (read_yaml(path).get("data") or {}) if path.is_file() else {}
    return all(name in recorded and recorded[name] == settings[name] for name in PREPARING)


def estimate_prepare(data: DataConfig) -> list[tuple[str, str]]:
    """Return what decoding these clips would cost, for people, after decoding a few of them."""
    source = _source(data)
    root = os.path.abspath(data.root)
    jobs = [Job(row, os.path.join(root, clip.video), clip.start, clip.end) for row, clip in enumerate(source.clips)]
    spec = FrameSpec(num_frames=data.num_frames * data.frames_per_segment, size=data.clip_size, fit=data.fit)
    found = estimate(jobs, spec=spec, workers=data.workers, timeout_s=data.timeout_s)
    where = next(folder for folder in (data.folder, *data.folder.resolve().parents) if folder.exists())
    rows = [
        ("clips", f"{found.num_clips} in {found.num_videos} videos"),
        ("frames kept", f"{spec.num_frames} of {data.clip_size} x {data.clip_size} pixels for each clip"),
        ("disk", f"{found.num_bytes / 1e9:.2f} GB, {shutil.disk_usage(where).free / 1e9:.1f} GB are free"),
        ("time", f"about {duration(found.seconds)}, {data.workers} workers ({len(found.sampled)} clips were tried)"),
    ]
    if source.missing:
        rows.append(("missing", f"{len(source.missing)} clips are not there, such as {source.missing[0]}"))
    rows += [("cannot be decoded", f"{source.clips[row].clip_id}: {why}") for row, why in found.failed.items()]
    return rows


def _source(data: DataConfig) -> Source:
    return read_source(
        data.adapter,
        data.root,
        subset=data.subset,
        options=data.options,
        labels=data.labels,
        group_regex=data.group_regex,
    )


def check_flip(class_names: Sequence[str], data: DataConfig, console: Console) -> None:
    """Warn where mirrored clips may change their class.

    Raises:
        ConfigError: two classes differ in left and right alone, so that mirrored clips surely do.
    """
    if not data.augment.flip:
        return
    for one, other in mirrored_pairs(class_names)[:1]:
        raise ConfigError(
            f"data.augment.flip mirrors half of the clips, but classes {one!r} and {other!r} are each other's mirror "
            "image: set data.augment.flip to false"
        )
    sided = [name for name in class_names if is_sided(name)]
    if sided:
        console.print(
            f"data.augment.flip mirrors half of the clips, also of {', '.join(map(repr, sided[:3]))}: set it to false "
            "if the side matters",
            markup=False,
        )


@contextmanager
def _transfer(console: Console, text: str) -> Iterator[Tick]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task(text, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[PrepareProgress], None]]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Progress(TextColumn("{task.description}"), BarColumn(), _Pace(), console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(progress: PrepareProgress) -> None:
            if progress.stage in tasks:
                bars.update(tasks[progress.stage], completed=progress.done)
                return
            for earlier in tasks.values():
                bars.remove_task(earlier)
            name, total = _SAYING[progress.stage], progress.total or None
            tasks[progress.stage] = bars.add_task(name, completed=progress.done, total=total)

        yield show


class _Pace(ProgressColumn):
    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text()
        return Text(_pace(int(task.completed), int(task.total), task.speed))


def _pace(done: int, total: int, rate: float | None) -> str:
    """Say how far something is, and if its rate is known, how fast and until when."""
    left = f", {rate:.{0 if rate >= 10 else 1}f}/s, {duration((total - done) / rate)} left" if rate else ""
    return f"{done} of {total}{left}"


class _Lines:
    """Says where the work is when a stage begins or ends and every few seconds, with rate and time left."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._stage, self._last = "", 0.0
        self._first: tuple[float, int] | None = None

    def __call__(self, progress: PrepareProgress) -> None:
        now, name = self._clock(), _SAYING[progress.stage]
        if progress.stage != self._stage:
            self._stage, self._first, self._last = progress.stage, None, now
            if progress.done < progress.total or progress.stage == "waiting":
                todo = "" if progress.stage == "waiting" else f": {progress.total - progress.done} to do"
                self._console.print(name + todo)
            return
        if self._first is None:  # the rate counts from the first clip, not from the start of the processes
            self._first = (now, progress.done)
        if now - self._last < LINE_EVERY_S or now == self._first[0]:
            return
        self._last = now
        rate = (progress.done - self._first[1]) / (now - self._first[0])
        self._console.print(f"{name}: {_pace(progress.done, progress.total, rate)}", markup=False)
