from __future__ import annotations

from pathlib import Path

import dataset_copies
import pytest

from aplt.common.data.datasets import read_source
from aplt.common.data.source import SourceClass, SourceClip
from aplt.common.errors import DataError

LABELS_0036 = "smg_data_phase2/smg_skeleton_test/Sample0036/Sample0036_finelabels.csv"


def test_rows_are_parts_of_the_video_of_one_person(tmp_path: Path) -> None:
    source = read_source("smg", dataset_copies.smg(tmp_path, videos=False))
    assert len(source.clips) == 12
    assert source.clips[0] == SourceClip(
        clip_id="smg_0001_0",
        video="SMG_RGB_Phase1/smg_rgb_train/Sample0001/Sample0001_color.mp4",
        label="Folding arms",
        group="0001",
        recording="0001",
        split="train",
        start=0,
        end=30,
    )
    assert [(clip.clip_id, clip.split, clip.start, clip.end) for clip in source.clips[-2:]] == [
        ("smg_0036_1", "test", 50, 90),
        ("smg_0036_2", "test", 100, 199),
    ]
    assert source.classes[16] == SourceClass(name="Illustrative hand gestures (non-MG)", number=16, original="17")
    assert len(source.classes) == 17
    assert source.notes == ()


def test_smg5_keeps_the_numbers_of_its_classes(tmp_path: Path) -> None:
    source = read_source("smg", dataset_copies.smg(tmp_path, videos=False), subset="smg5")
    assert [kind.number for kind in source.classes] == [2, 4, 7, 8, 11]
    assert len(source.clips) == 11


def test_offset_and_margin_move_the_ends(tmp_path: Path) -> None:
    root = dataset_copies.smg(tmp_path, videos=False)
    clip = read_source("smg", root, options={"margin": 5}).clips[-1]
    assert (clip.start, clip.end) == (95, 204)  # reading clamps it to the last frame
    with pytest.raises(DataError, match="option margin of data set smg is -1"):
        read_source("smg", root, options={"margin": -1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("18,3,9\n", "line 1: class '18' is not one of 1 to 17"),
        ("99,3,9\n", "line 1: class '99' is not one of 1 to 17"),
        ("5,3,9,1\n", "line 1: 4 values, expected 3"),
        ("5,9,3\n", None),
    ],
)
def test_labels_with_a_fault_name_the_line(tmp_path: Path, text: str, message: str | None) -> None:
    root = dataset_copies.smg(tmp_path, videos=False)
    dataset_copies.write(root / LABELS_0036, text)
    if message is None:
        source = read_source("smg", root)
        assert {clip.split for clip in source.clips} == {"train", "val"}
        assert source.notes[0].endswith(f"{root / LABELS_0036}, line 1: 9 to 3)")
    else:
        with pytest.raises(DataError, match=f"Sample0036_finelabels.csv, {message}"):
            read_source("smg", root)


def test_a_sample_that_smg_does_not_have_is_a_data_error(tmp_path: Path) -> None:
    root = dataset_copies.smg(tmp_path, videos=False)
    dataset_copies.write(root / "Sample0041/Sample0041_finelabels.csv", "5,3,9\n")
    with pytest.raises(DataError, match="0041 is none of the 40 samples of SMG"):
        read_source("smg", root)
