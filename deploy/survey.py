"""A look at a folder of clips: what `aplt init` needs to know to propose settings."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from statistics import median
from types import MappingProxyType
from typing import Any

from aplt.common.data.datasets import read_source
from aplt.common.data.decode import decode_clips
from aplt.common.data.files import VIDEO_EXTENSIONS
from aplt.common.data.frames import Frames, FrameSpec, Job
from aplt.common.data.source import Source, SourceClip
from aplt.common.errors import DataError

# How people write the subject into file names, most specific first.
GROUP_PATTERNS = (
    r"_g(\d+)_c\d+$",
    r"(?i)(?:^|[_-])((?:subject|subj|person|speaker|actor)[_-]?\d+)",
    r"^([A-Za-z]{1,4}\d{1,4})[_-]",
    r"^(\d{1,6})[_-]",
    r"^([A-Za-z]+)[_-]\d",
)
MIN_GROUPS = 3
MIN_CLIPS_PER_GROUP = 2


NUM_PROBES = 8
PROBE_TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What is in a folder of clips and on this machine."""

    root: Path
    adapter: str
    subset: str | None
    options: Mapping[str, Any]
    source: Source
    not_in_table: list[str]
    """Videos in the folder that the table does not name: they have no label."""
    group_regex: str | None
    groups: Mapping[str, int]
    """Clips of each subject."""
    sizes: list[tuple[int, int]]
    """Width and height of the clips that were opened."""
    lengths: list[int]
    """Frames of the clips that were opened."""
    unreadable: dict[str, str]
    """Clips that could not be opened, and why."""
    num_cores: int
    gpus: list[str]

    @property
    def clips(self) -> list[SourceClip]:
        """All clips, without those that a table does not name."""
        return self.source.clips

    @property
    def class_counts(self) -> dict[str, int]:
        """Labelled clips of each class, by class name."""
        counts = Counter(clip.label for clip in self.clips)
        return {one.name: counts[one.name] for one in self.source.classes}

    @property
    def num_unlabeled(self) -> int:
        """Clips without a known label."""
        return sum(clip.label is None for clip in self.clips) + len(self.not_in_table)

    @property
    def short_side(self) -> int:
        """The median of the shorter sides, in pixels."""
        return int(median(min(size) for size in self.sizes))


def look_at(
    root: Path,
    *,
    adapter: str = "folder",
    subset: str | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    labels: Path | None = None,
    group_regex: str | None = None,
) -> Survey:
    """Return what is in the folder `root`; opens a few clips, in processes that are killed if they hang.

    Raises:
        DataError: there is nothing to train from, or none of the opened clips can be decoded.
    """
    import torch

    source = read_source(adapter, root, subset=subset, options=options, labels=labels, group_regex=group_regex)
    clips = source.clips
    groups = Counter(clip.group for clip in clips if clip.group)
    if not groups and adapter in ("folder", "csv"):
        stems = [(PurePosixPath(clip.video).stem, clip.label or "") for clip in clips]
        group_regex = find_group_regex(stems)
        groups = Counter() if group_regex is None else _count_groups([stem for stem, _ in stems], group_regex)
    probes = [clips[place] for place in _spread(len(clips), NUM_PROBES)]
    sizes, lengths, unreadable = _probe(root, probes)
    if not sizes:
        name, reason = next(iter(unreadable.items()))
        raise DataError(f"none of {len(probes)} clips of {root} can be decoded; {name}: {reason}")
    return Survey(
        root=root,
        adapter=adapter,
        subset=subset,
        options=dict(options),
        source=source,
        not_in_table=[] if labels is None else _others(root, {clip.video for clip in clips}),
        group_regex=group_regex,
        groups=dict(sorted(groups.items())),
        sizes=sizes,
        lengths=lengths,
        unreadable=unreadable,
        num_cores=len(os.sched_getaffinity(0)),
        gpus=[torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
    )


def find_group_regex(class_of_stem: Sequence[tuple[str, str]]) -> str | None:
    """Return a pattern whose first group names the subject of every file stem, or None if names show no subject.

    Args:
        class_of_stem: (file stem, class) of each clip; the class is empty if it is not known.
    """
    return next((pattern for pattern in GROUP_PATTERNS if _names_subjects(pattern, class_of_stem)), None)


def _names_subjects(pattern: str, class_of_stem: Sequence[tuple[str, str]]) -> bool:
    """Whether the pattern fits all stems, finds several groups of several clips, and does not just repeat the class."""
    classes_of: dict[str, set[str]] = defaultdict(set)
    for stem, class_name in class_of_stem:
        match = re.search(pattern, stem)
        if match is None:
            return False
        classes_of[match[1]].add(class_name)
    if len(classes_of) < MIN_GROUPS or len(class_of_stem) < MIN_CLIPS_PER_GROUP * len(classes_of):
        return False
    has_classes = len(set().union(*classes_of.values())) > 1
    return not has_classes or sum(len(found) > 1 for found in classes_of.values()) > len(classes_of) / 2


def _count_groups(stems: Sequence[str], pattern: str) -> Counter[str]:
    return Counter(match[1] for stem in stems if (match := re.search(pattern, stem)))


def _probe(root: Path, clips: Sequence[SourceClip]) -> tuple[list[tuple[int, int]], list[int], dict[str, str]]:
    sizes, lengths, unreadable = [], [], {}
    jobs = [Job(index, str(root / clip.video), clip.start, clip.end) for index, clip in enumerate(clips)]
    spec = FrameSpec(num_frames=1, size=64)
    for job, outcome in decode_clips(jobs, spec=spec, workers=1, timeout_s=PROBE_TIMEOUT_S):
        if isinstance(outcome, Frames):
            last = outcome.nframes - 1 if job.end is None else min(job.end, outcome.nframes - 1)
            sizes.append((outcome.width, outcome.height))
            lengths.append(last - (job.start or 0) + 1)
        else:
            unreadable[clips[job.index].video] = outcome.reason
    return sizes, lengths, unreadable


def _others(root: Path, named: set[str]) -> list[str]:
    """Return the videos below `root` that are not `named`."""
    paths = (path for path in root.rglob("*") if path.suffix.lower() in VIDEO_EXTENSIONS and path.is_file())
    return sorted({path.relative_to(root).as_posix() for path in paths} - named)


def _spread(count: int, wanted: int) -> list[int]:
    """Return `wanted` places spread evenly over `count`."""
    return sorted({(2 * n + 1) * count // (2 * wanted) for n in range(wanted)})
