"""From a folder of videos to a prepared data directory: manifest, splits and clip cache."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aplt.common.data.cache import DECODED, CacheWriter, cache_settings, frame_spec
from aplt.common.data.decode import Decoder, decode_clips
from aplt.common.data.fingerprints import fingerprints
from aplt.common.data.frames import Failure, Fit, Job
from aplt.common.data.imports import read_list, split_of_lists
from aplt.common.data.manifest import Clip, csv_text, manifest_text, read_columns, read_manifest, read_text, write_text
from aplt.common.data.prepared import (
    CLASSES,
    MANIFEST,
    PREPARED,
    QUARANTINE,
    TRUTH,
    VISIBLE,
    classes_text,
    digest,
    load_pool,
    pool_digest,
    read_about,
    require_about,
    write_split,
)
from aplt.common.data.source import Source, SourceClip
from aplt.common.data.splits import UNKNOWN, Pool, SplitRules, draw, require_labeled_classes
from aplt.common.errors import DataError

logger = logging.getLogger(__name__)

FILES = "files.csv"


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
    """All clips, those in quarantine too."""
    class_counts: dict[str, int]
    """Clips with a known label that can be used, by class."""
    quarantined: list[tuple[str, str]]
    """Clip id and reason of the clips that cannot be used."""
    missing: tuple[str, ...]
    """Files that the data set names and that are not there."""
    notes: tuple[str, ...]
    decoded_now: int
    seconds: float


def prepare(
    source: Source,
    *,
    root: Path,
    prepared: Path,
    rules: SplitRules | None,
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
    """Make the directory `prepared` from the clips in `root`, or bring it up to date, with the split of `rules`.

    Without rules there is no new split. It is drawn over all clips before any is decoded. What is there already is
    kept: a call that was killed goes on where it stopped, and one process waits for another that prepares the same
    directory. With `verify`, clips of a finished cache whose checksum is wrong are decoded again; clips that are
    missing from it always are.

    Raises:
        DataError: the clips or the rules have a fault, or more than `max_bad_share` of the clips is missing or cannot
            be decoded.
    """
    began, report = time.monotonic(), progress or (lambda _: None)
    if prepared.resolve().is_relative_to(root.resolve()):
        raise DataError(f"data.prepared {prepared} lies inside data.root {root}: nothing is written there, move it out")
    _refuse_missing(source, root, max_bad_share)
    pool = _pool(source)
    if rules is not None:
        require_labeled_classes(pool, draw(pool, rules).labeled_rows, where="in the split")
    clips = source.clips
    with locked(prepared, lambda: report(PrepareProgress("waiting", 0, 0))):
        videos = list(dict.fromkeys(clip.video for clip in clips))
        report(PrepareProgress("scanning", 0, len(videos)))
        content = fingerprints(
            root,
            videos,
            index=prepared / FILES,
            progress=lambda done: report(PrepareProgress("scanning", done, len(videos))),
        )
        settings = cache_settings(num_segments=num_segments, frames_per_segment=frames_per_segment, size=size, fit=fit)
        identities = [[content[clip.video], clip.start, clip.end] for clip in clips]
        key = digest({"settings": settings, "identities": identities})[len("sha256:") :][:16]
        with CacheWriter(prepared / "cache" / key, settings=settings, identities=identities, verify=verify) as cache:
            missing = cache.missing(timeout_s)
            _refuse_too_many(clips, cache, prepared, max_bad_share)
            cache.require_space(len(missing))
            report(PrepareProgress("decoding", len(clips) - len(missing), len(clips)))
            outcomes = decode_clips(
                [_job(row, clips[row], root) for row in missing],
                spec=frame_spec(settings),
                workers=min(workers, len(missing)),
                timeout_s=timeout_s,
                decoder=decoder,
            )
            with closing(outcomes):
                for done, (job, outcome) in enumerate(outcomes, start=len(clips) - len(missing) + 1):
                    cache.add(job.index, outcome)
                    if isinstance(outcome, Failure):
                        logger.warning("%s goes into quarantine: %s", clips[job.index].clip_id, outcome.reason)
                        _refuse_too_many(clips, cache, prepared, max_bad_share)
                    report(PrepareProgress("decoding", done, len(clips)))
            bad = _bad(clips, cache)
            cache.finish()
            manifest = [_row(clip, status) for clip, status in zip(clips, cache.status, strict=True)]
        truth = {clip.clip_id: clip.label for clip in clips if clip.label is not None}
        files = {
            MANIFEST: manifest_text(manifest),
            CLASSES: classes_text(source.classes),
            TRUTH: csv_text(("clip_id", "label"), truth.items()),
            QUARANTINE: csv_text(("clip_id", "reason"), bad.items()),
        }
        _write(prepared, files, key, settings, pool_digest(pool.clip_ids))
        if rules is not None:
            _add_split(prepared, rules, bad)
    counts = Counter(label for clip_id, label in truth.items() if clip_id not in bad)
    return PrepareReport(
        num_clips=len(clips),
        class_counts={one.name: counts[one.name] for one in source.classes},
        quarantined=list(bad.items()),
        missing=source.missing,
        notes=source.notes,
        decoded_now=len(missing) - len(set(missing) & set(cache.failures)),
        seconds=time.monotonic() - began,
    )


def add_split(prepared: Path, rules: SplitRules) -> None:
    """Draw the split of these rules from clips that are prepared, if it is not there; the videos are not needed.

    Raises:
        DataError: nothing is prepared, or the rules do not fit the clips.
    """
    with locked(prepared, lambda: None):
        require_about(prepared)
        _add_split(prepared, rules, set(read_columns(prepared / QUARANTINE, ("clip_id", "reason"))[0]))


def import_split(
    prepared: Path,
    name: str,
    *,
    rules: SplitRules,
    labeled: Path,
    unlabeled: Path | None = None,
    test: Path | None = None,
) -> None:
    """Make a split of somebody's lists; see `aplt.common.data.imports`. What they leave open is drawn by the rules.

    Raises:
        DataError: nothing is prepared, the name is no name, or the lists have a fault.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise DataError(f"{name!r} is no name of a split: use letters, digits, '.', '_' and '-', a letter first")
    with locked(prepared, lambda: None):
        pool, manifest = load_pool(prepared), read_manifest(prepared / MANIFEST)
        lists = {"labeled": labeled, "unlabeled": unlabeled, "test": test}
        rows = {part: read_list(path, manifest) for part, path in lists.items() if path is not None}
        split = split_of_lists(
            pool,
            labeled=rows["labeled"],
            unlabeled=rows.get("unlabeled"),
            test=rows.get("test"),
            drawn=draw(pool, rules),
        )
        require_labeled_classes(pool, split.labeled_rows, where=f"in {labeled}")
        origin = {part: path.name for part, path in lists.items() if path is not None}
        write_split(prepared, name, split, pool, origin={"imported": origin})


def _add_split(prepared: Path, rules: SplitRules, bad: Collection[str]) -> None:
    pool = load_pool(prepared)
    split = draw(pool, rules)
    usable = [row for row in split.labeled_rows.tolist() if pool.clip_ids[row] not in bad]
    require_labeled_classes(
        pool, np.array(usable, dtype=np.int64), where=f"that can be decoded, see {prepared / QUARANTINE}"
    )
    write_split(prepared, rules.name, split, pool, origin={"rules": rules.model_dump(mode="json")})


@contextmanager
def locked(prepared: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the directory for this process; the kernel lets go when the process ends, however it ends."""
    try:
        prepared.mkdir(parents=True, exist_ok=True)
        lock = (prepared / ".lock").open("a")
    except OSError as error:
        raise DataError(f"the folder {prepared} for prepared data cannot be written: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process prepares %s; waiting for it", prepared)
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _pool(source: Source) -> Pool:
    names = [one.name for one in source.classes]
    number_of = {name: number for number, name in enumerate(names)}
    clips = source.clips
    return Pool(
        clip_ids=[clip.clip_id for clip in clips],
        class_names=names,
        labels_N=np.array([UNKNOWN if c.label is None else number_of[c.label] for c in clips], dtype=np.int16),
        groups=[clip.group for clip in clips],
        parts=[clip.split for clip in clips],
        lengths_N=np.full(len(clips), UNKNOWN, dtype=np.int32),
    )


def _job(row: int, clip: SourceClip, root: Path) -> Job:
    return Job(row, os.path.abspath(root / clip.video), clip.start, clip.end)


def _bad(clips: list[SourceClip], cache: CacheWriter) -> dict[str, str]:
    return {clips[row].clip_id: failure.reason for row, failure in sorted(cache.failures.items())}


def _row(clip: SourceClip, status: np.void) -> Clip:
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
        split=clip.split,
    )


def _write(prepared: Path, files: Mapping[str, str], cache: str, settings: Mapping[str, Any], pool: str) -> None:
    """Write what differs; without prepared.json meanwhile, so that nobody reads half of it."""
    digests = {name: digest(text) for name, text in files.items()}
    about = {
        "digest": digest({"settings": settings, "files": {name: digests[name] for name in VISIBLE}}),
        "cache": cache,
        "pool": pool,
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


def _refuse_missing(source: Source, root: Path, max_bad_share: float) -> None:
    missing, total = len(source.missing), len(source.missing) + len(source.clips)
    if missing > max_bad_share * total:
        raise DataError(
            f"{missing} of {total} clips are not in {root}, more than data.max_bad_share {max_bad_share:g} allows "
            f"(such as {', '.join(source.missing[:3])}): complete the data set, or raise data.max_bad_share"
        )


def _refuse_too_many(clips: list[SourceClip], cache: CacheWriter, prepared: Path, max_bad_share: float) -> None:
    if len(cache.failures) <= max_bad_share * len(clips):
        return
    bad = _bad(clips, cache)
    (prepared / PREPARED).unlink(missing_ok=True)
    write_text(prepared / QUARANTINE, csv_text(("clip_id", "reason"), bad.items()))
    first = "; ".join(f"{clip_id}: {reason}" for clip_id, reason in list(bad.items())[:3])
    raise DataError(
        f"{len(bad)} of {len(clips)} clips cannot be decoded, more than data.max_bad_share {max_bad_share:g} allows "
        f"({first}; all in {prepared / QUARANTINE}): repair or remove them, or raise data.max_bad_share"
    )
