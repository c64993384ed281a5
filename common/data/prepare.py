"""From a folder of videos to a prepared data directory: manifest, splits and clip cache."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aplt.common.data.cache import DECODED, CacheWriter, cache_settings, frame_spec
from aplt.common.data.datasets import read_source
from aplt.common.data.decode import Decoder, decode_clips
from aplt.common.data.frames import Failure, Fit, Job
from aplt.common.data.manifest import Clip, csv_text, manifest_text, read_text, write_text
from aplt.common.data.prepared import (
    CLASSES,
    LABELED,
    MANIFEST,
    PREPARED,
    QUARANTINE,
    SPLIT,
    TRUTH,
    UNLABELED,
    VISIBLE,
    digest,
    read_about,
)
from aplt.common.data.source import Part, SourceClip
from aplt.common.data.splits import LabeledRule, TestRule, draw_labeled, draw_test, require_labeled_classes
from aplt.common.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PrepareProgress:
    """How far `prepare` is: `done` of `total` clips of one stage."""

    stage: Literal["waiting", "scanning", "decoding"]
    """waiting: another process prepares the same directory."""
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareReport:
    """What `prepare` made or found."""

    num_clips: int
    """All clips, those in quarantine too; the other counts leave those out."""
    num_train: int
    num_test: int
    num_labeled: int
    num_unlabeled: int
    class_counts: dict[str, int]
    """Clips with a known label, by class."""
    quarantined: list[tuple[str, str]]
    """Clip id and reason of the clips that cannot be used."""
    decoded_now: int
    seconds: float


def prepare(
    *,
    root: Path,
    prepared: Path,
    adapter: Literal["folder", "csv"],
    labels: Path | None,
    group_regex: str | None,
    test: TestRule,
    labeled: LabeledRule,
    seed: int,
    num_segments: int,
    frames_per_segment: int,
    size: int,
    fit: Fit,
    workers: int,
    timeout_s: float,
    max_bad_share: float,
    verify: bool = False,
    progress: Callable[[PrepareProgress], None] | None = None,
    decoder: Decoder | None = None,
) -> PrepareReport:
    """Make the directory `prepared` from the clips in `root`, or bring it up to date, and return what is in it.

    Splits are drawn over all clips before any is decoded. What is there already is kept: a call that was killed goes
    on where it stopped, and one process waits for another that prepares the same directory. With `verify`, clips of a
    finished cache whose checksum is wrong are decoded again; clips that are missing from it always are.

    Raises:
        DataError: the clips or the table have a fault, or more than `max_bad_share` of the clips cannot be decoded.
    """
    began, report = time.monotonic(), progress or (lambda _: None)
    if prepared.resolve().is_relative_to(root.resolve()):
        raise DataError(f"data.prepared {prepared} lies inside data.root {root}: nothing is written there, move it out")
    with _locked(prepared, lambda: report(PrepareProgress("waiting", 0, 0))):
        report(PrepareProgress("scanning", 0, 0))
        found = read_source(adapter, root, labels=labels, group_regex=group_regex)
        source, names = found.clips, [kind.name for kind in found.classes]
        train, test_ids, drawn = _draw(source, test=test, labeled=labeled, seed=seed)
        require_labeled_classes(names, drawn, where="in the split")
        settings = cache_settings(num_segments=num_segments, frames_per_segment=frames_per_segment, size=size, fit=fit)
        identities = [_identity(root, clip) for clip in source]
        key = digest({"settings": settings, "identities": identities})[len("sha256:") :][:16]
        with CacheWriter(prepared / "cache" / key, settings=settings, identities=identities, verify=verify) as cache:
            missing = cache.missing(timeout_s)
            _refuse_too_many(_bad(source, cache), len(source), prepared, max_bad_share)
            cache.require_space(len(missing))
            report(PrepareProgress("decoding", len(source) - len(missing), len(source)))
            outcomes = decode_clips(
                [_job(row, source[row], root) for row in missing],
                spec=frame_spec(settings),
                workers=min(workers, len(missing)),
                timeout_s=timeout_s,
                decoder=decoder,
            )
            with closing(outcomes):
                for done, (job, outcome) in enumerate(outcomes, start=len(source) - len(missing) + 1):
                    cache.add(job.index, outcome)
                    if isinstance(outcome, Failure):
                        logger.warning("%s goes into quarantine: %s", source[job.index].clip_id, outcome.reason)
                        _refuse_too_many(_bad(source, cache), len(source), prepared, max_bad_share)
                    report(PrepareProgress("decoding", done, len(source)))
            bad = _bad(source, cache)
            cache.finish()
            manifest = [
                _row(clip, status, "test" if clip.clip_id in test_ids else "train")
                for clip, status in zip(source, cache.status, strict=True)
            ]
        usable = {clip_id: label for clip_id, label in drawn.items() if clip_id not in bad}
        write_text(prepared / QUARANTINE, _quarantine(bad))  # the next line may end here and names this file
        require_labeled_classes(names, usable, where=f"that can be decoded, see {prepared / QUARANTINE}")
        unlabeled = [clip_id for clip_id in train if clip_id not in drawn and clip_id not in bad]
        truth = {clip.clip_id: clip.label for clip in source if clip.label is not None}
        files = {
            MANIFEST: manifest_text(manifest),
            CLASSES: json.dumps(names, ensure_ascii=False, indent=2) + "\n",
            TRUTH: csv_text(("clip_id", "label"), truth.items()),
            QUARANTINE: _quarantine(bad),
            LABELED: csv_text(("clip_id", "label"), sorted(usable.items())),
            UNLABELED: "".join(f"{clip_id}\n" for clip_id in unlabeled),
        }
        about_split = {
            "test": test.model_dump(mode="json"),
            "labeled": labeled.model_dump(mode="json"),
            "seed": seed,
            "pool": len(train),
            "files": {name: digest(files[name]) for name in (LABELED, UNLABELED)},
        }
        files[SPLIT] = json.dumps(about_split, indent=2) + "\n"
        _write(prepared, files, key, settings)
    counts = Counter(label for clip_id, label in truth.items() if clip_id not in bad)
    return PrepareReport(
        num_clips=len(source),
        num_train=len(usable) + len(unlabeled),
        num_test=len(test_ids - set(bad)),
        num_labeled=len(usable),
        num_unlabeled=len(unlabeled),
        class_counts={name: counts[name] for name in names},
        quarantined=list(bad.items()),
        decoded_now=len(missing) - len(set(missing) & set(cache.failures)),
        seconds=time.monotonic() - began,
    )


@contextmanager
def _locked(prepared: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the directory for this process; the kernel lets go when the process ends, however it ends."""
    try:
        prepared.mkdir(parents=True, exist_ok=True)
        lock = (prepared / ".lock").open("a")
    except OSError as error:
        raise DataError(f"data.prepared {prepared} cannot be written: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process prepares %s; waiting for it", prepared)
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _draw(
    source: list[SourceClip], *, test: TestRule, labeled: LabeledRule, seed: int
) -> tuple[list[str], set[str], dict[str, str]]:
    """Return the training clips, the test clips, and the labels of the training clips that show theirs."""
    if test.rule != "given" and any(clip.split for clip in source):
        logger.warning("the table's split column is not used: data.test.rule is %s, not given", test.rule)
    labels = {clip.clip_id: clip.label for clip in source}
    test_ids = draw_test(
        labels,
        groups={clip.clip_id: clip.group for clip in source},
        given={clip.clip_id: clip.split for clip in source},
        rule=test,
        seed=seed,
    )
    train = [clip.clip_id for clip in source if clip.clip_id not in test_ids]
    shown = draw_labeled({clip_id: labels[clip_id] for clip_id in train}, rule=labeled, seed=seed)
    return train, test_ids, {clip_id: label for clip_id in shown if (label := labels[clip_id]) is not None}


def _identity(root: Path, clip: SourceClip) -> list[Any]:
    try:
        stat = os.stat(root / clip.video)
    except OSError:  # a link to nothing: decoding says so
        return [clip.clip_id, clip.video, -1, -1, clip.start, clip.end]
    return [clip.clip_id, clip.video, stat.st_size, stat.st_mtime_ns, clip.start, clip.end]


def _job(row: int, clip: SourceClip, root: Path) -> Job:
    return Job(row, os.path.abspath(root / clip.video), clip.start, clip.end)


def _bad(source: list[SourceClip], cache: CacheWriter) -> dict[str, str]:
    return {source[row].clip_id: failure.reason for row, failure in sorted(cache.failures.items())}


def _quarantine(bad: Mapping[str, str]) -> str:
    return csv_text(("clip_id", "reason"), bad.items())


def _row(clip: SourceClip, status: np.void, split: Part) -> Clip:
    decoded = status["state"] == DECODED
    return Clip(
        clip_id=clip.clip_id,
        video=clip.video,
        start=clip.start,
        end=clip.end,
        fps=(round(float(status["fps"]), 3) or None) if decoded else None,
        nframes=int(status["nframes"]) if decoded else None,
        width=int(status["width"]) if decoded else None,
        height=int(status["height"]) if decoded else None,
        group=clip.group,
        recording=clip.recording,
        split=split,
    )


def _write(prepared: Path, files: Mapping[str, str], cache: str, settings: Mapping[str, Any]) -> None:
    """Write what differs; without prepared.json meanwhile, so that nobody reads half of it."""
    digests = {name: digest(text) for name, text in files.items()}
    about = {
        "digest": digest({"settings": settings, "files": {name: digests[name] for name in VISIBLE}}),
        "cache": cache,
        "files": digests,
    }
    paths = {name: prepared / name for name in files}
    if read_about(prepared) == about and all(
        path.is_file() and digest(read_text(path)) == digests[name] for name, path in paths.items()
    ):
        return
    (prepared / PREPARED).unlink(missing_ok=True)
    for name, text in files.items():
        write_text(prepared / name, text)
    write_text(prepared / PREPARED, json.dumps(about, indent=2) + "\n")


def _refuse_too_many(bad: Mapping[str, str], num_clips: int, prepared: Path, max_bad_share: float) -> None:
    if len(bad) <= max_bad_share * num_clips:
        return
    (prepared / PREPARED).unlink(missing_ok=True)
    write_text(prepared / QUARANTINE, _quarantine(bad))
    first = "; ".join(f"{clip_id}: {reason}" for clip_id, reason in list(bad.items())[:3])
    raise DataError(
        f"{len(bad)} of {num_clips} clips cannot be decoded, more than data.max_bad_share {max_bad_share:g} allows "
        f"({first}; all in {prepared / QUARANTINE}): repair or remove them, or raise data.max_bad_share"
    )
