"""What is read as a part of a video is exactly that part, to the frame."""

from __future__ import annotations

from pathlib import Path

import dataset_copies
import pytest

from aplt.common.data.datasets import read_source
from aplt.common.data.decode import decode_clips
from aplt.common.data.frames import Frames, FrameSpec, Job
from aplt.common.data.source import SourceClip

ALL_FRAMES = FrameSpec(num_frames=128, size=64, fit="stretch")  # more than any of the clips has: every frame is kept


def frames_of(root: Path, clips: list[SourceClip]) -> dict[str, list[int]]:
    """Return the numbers that the frames of every clip show, each once, in order."""
    jobs = [Job(row, str(root / clip.video), clip.start, clip.end) for row, clip in enumerate(clips)]
    shown = {}
    for job, outcome in decode_clips(jobs, spec=ALL_FRAMES, workers=1, timeout_s=60.0):
        assert isinstance(outcome, Frames), outcome
        numbers = [dataset_copies.read_number(frame) for frame in outcome.frames_FHWC]
        assert numbers == sorted(numbers)
        shown[clips[job.index].clip_id] = sorted(set(numbers))
    return shown


@pytest.mark.parametrize("name", ["imigue", "smg"])
def test_clips_of_recordings_hold_exactly_their_frames(tmp_path: Path, name: str) -> None:
    root = getattr(dataset_copies, name)(tmp_path)
    last = {"imigue": dataset_copies.IMIGUE_FRAMES, "smg": dataset_copies.SMG_FRAMES}[name] - 1
    clips = read_source(name, root).clips
    shown = frames_of(root, clips)
    expected = {"imigue": dataset_copies.IMIGUE_ROWS, "smg": dataset_copies.SMG_ROWS}[name]
    for clip in clips:
        _, start, end = expected[clip.recording][int(clip.clip_id.rsplit("_", 1)[1])]
        assert shown[clip.clip_id] == list(range(start, min(end, last) + 1))


def test_offset_and_margin_are_frames(tmp_path: Path) -> None:
    root = dataset_copies.smg(tmp_path)
    clips = read_source("smg", root, options={"frame_offset": -1, "margin": 2}).clips
    shown = frames_of(root, [clip for clip in clips if clip.clip_id in ("smg_0001_3", "smg_0036_2")])
    assert shown == {"smg_0001_3": list(range(88, 96)), "smg_0036_2": list(range(97, 200))}


@pytest.mark.parametrize("name", ["ma52", "ucf101", "hmdb51", "kinetics400"])
def test_clips_that_are_files_hold_all_frames(tmp_path: Path, name: str) -> None:
    root = getattr(dataset_copies, name)(tmp_path)
    clips = read_source(name, root).clips[:4]
    for numbers in frames_of(root, clips).values():
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= 20
