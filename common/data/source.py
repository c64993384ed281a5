"""Clips as a data set describes them: what every adapter returns. Only names and lists were read, no video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Part = Literal["train", "val", "test", ""]
"""The part of the data set that a clip was delivered in; "" where it says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceClip:
    """A clip as the data set describes it."""

    clip_id: str
    video: str
    """Path of the file, relative to the data root, with forward slashes."""
    label: str | None
    """Name of its class; None where it is not known."""
    group: str = ""
    """The subject (or uploader, or scene): splits without common groups keep it on one side."""
    recording: str = ""
    split: Part = ""
    start: int | None = None
    """First frame that belongs to the clip, counted from 0; None: the first of the file."""
    end: int | None = None
    """Last frame that belongs to the clip; None: the last of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceClass:
    """A class. Its place in `Source.classes` is the number that is trained with."""

    name: str
    number: int
    """Its number in the whole data set, counted from 0, which subsets keep."""
    original: str
    """How the data set's own files write it."""
    coarse: str = ""
    """The group of classes it belongs to, such as a part of the body."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """All clips of a data set, sorted by clip id, and its classes, in the order of their numbers."""

    clips: list[SourceClip]
    classes: tuple[SourceClass, ...]
    notes: tuple[str, ...] = ()
    """What was left out or looks odd, a line each, for people."""
    missing: tuple[str, ...] = ()
    """Ids of clips that the lists name and that are left out, because their video is not there."""
