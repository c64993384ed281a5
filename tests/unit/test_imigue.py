from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import dataset_copies
import pytest

from aplt.common.data.datasets import read_source
from aplt.common.data.source import SourceClass, SourceClip
from aplt.common.errors import DataError

LABELS_0012 = "imigue_data_phase1/datasets/imigue_skeleton_train/0012/0012_label.csv"


def test_rows_are_parts_of_videos(tmp_path: Path) -> None:
    source = read_source("imigue", dataset_copies.imigue(tmp_path, videos=False))
    clips = [clip for clip in source.clips if clip.recording == "0012"]
    assert clips[0] == SourceClip(
        clip_id="imigue_0012_0",
        video="iMiGUE_RGB_Phase1/imigue_rgb_train/0012/0012.mp4",
        label="pressing lips",
        recording="0012",
        split="train",
        start=10,
        end=30,
    )
    assert [(clip.label, clip.start, clip.end) for clip in clips[1:]] == [
        ("shaking shoulders", 30, 55),
        ("shaking shoulders", 56, 56),
        ("illustrative body language (non-MG)", 60, 90),
        ("moving torso", 91, 120),
        ("bulging face, deep breath", 250, 320),
    ]
    assert {clip.split for clip in source.clips if clip.recording == "0001"} == {"val"}
    assert source.classes[31] == SourceClass(
        name="illustrative body language (non-MG)", number=31, original="99", coarse=""
    )
    assert source.classes[30].original == "31"


def test_both_forms_of_labels_give_the_same_clips(tmp_path: Path) -> None:
    table = read_source("imigue", dataset_copies.imigue(tmp_path / "table", form="table", videos=False))
    files = read_source("imigue", dataset_copies.imigue(tmp_path / "files", videos=False))
    assert [replace(clip, group="") for clip in table.clips if clip.split != "test"] == files.clips
    assert {(clip.recording, clip.group) for clip in table.clips} == {("0001", "1"), ("0012", "12"), ("0054", "54")}
    assert table.classes == files.classes
    assert files.notes == (
        "the label files of single videos do not name subjects: clips have no group",
        "test: 3 clips are left out, because their labels are not public",
    )
    assert table.notes == ()


def test_classes_of_single_test_videos_are_used_only_on_request(tmp_path: Path) -> None:
    root = dataset_copies.imigue(tmp_path, videos=False)
    assert "test" not in {clip.split for clip in read_source("imigue", root).clips}
    source = read_source("imigue", root, options={"test_labels": True})
    assert [clip.label for clip in source.clips if clip.split == "test"] == ["turtle neck"] * 3


@pytest.mark.parametrize("header", ["", "class,start,end\n", "\ufeffClass,Start,End\r\n"])
@pytest.mark.parametrize("other", ["99", "32", " 99 "])
def test_headers_and_both_numbers_of_the_other_class(tmp_path: Path, header: str, other: str) -> None:
    root = dataset_copies.imigue(tmp_path, videos=False)
    dataset_copies.write(root / LABELS_0012, f"{header}{other},3,9\n\n29, 10 ,11")
    clips = [clip for clip in read_source("imigue", root).clips if clip.recording == "0012"]
    assert [(clip.clip_id, clip.label, clip.start) for clip in clips] == [
        ("imigue_0012_0", "illustrative body language (non-MG)", 3),
        ("imigue_0012_1", "pressing lips", 10),
    ]


def test_offset_and_margin_move_the_ends(tmp_path: Path) -> None:
    root = dataset_copies.imigue(tmp_path, videos=False)
    source = read_source("imigue", root, options={"frame_offset": -1, "margin": 5})
    ends = {clip.clip_id: (clip.start, clip.end) for clip in source.clips}
    assert ends["imigue_0012_0"] == (4, 34)
    assert ends["imigue_0001_0"] == (0, 28)


def test_a_row_that_ends_before_it_starts_is_left_out_and_told(tmp_path: Path) -> None:
    root = dataset_copies.imigue(tmp_path, videos=False)
    dataset_copies.write(root / LABELS_0012, "29,10,30\n31,30,20\n31,56,56\n")
    source = read_source("imigue", root)
    assert [clip.clip_id for clip in source.clips if clip.recording == "0012"] == ["imigue_0012_0", "imigue_0012_2"]
    expected = (
        f"1 rows are left out, because they end before they start (such as {root / LABELS_0012}, line 2: 30 to 20)"
    )
    assert source.notes[0] == expected


def test_labels_beside_the_videos_are_read_once(tmp_path: Path) -> None:
    root = dataset_copies.imigue(tmp_path, videos=False)
    expected = read_source("imigue", root)
    shutil.copy(root / LABELS_0012, root / "iMiGUE_RGB_Phase1/imigue_rgb_train/0012")
    assert read_source("imigue", root) == expected
    dataset_copies.write(root / "iMiGUE_RGB_Phase1/imigue_rgb_train/0012/0012_label.csv", "29,1,2\n")
    with pytest.raises(DataError, match=r"2 files 0012_label.csv that differ"):
        read_source("imigue", root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("29,10,30\n33,31,40\n", "line 2: class '33' is not one of 1 to 32 or 99"),
        ("0,10,30\n", "line 1: class '0' is not one of"),
        ("29,10\n", "line 1: 2 values, expected 3: class,start_frame,end_frame"),
        ("29,-1,30\n", "line 1: frames '-1' and '30' are not whole numbers from 0"),
        ("29,1.5,30\n", "frames '1.5' and '30' are not"),
        ("29,1,30\nx,2,30\n", "line 2: class 'x' is not one of"),
    ],
)
def test_labels_with_a_fault_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    root = dataset_copies.imigue(tmp_path, videos=False)
    dataset_copies.write(root / LABELS_0012, text)
    with pytest.raises(DataError, match=f"0012_label.csv, {message}" if "line" in message else message):
        read_source("imigue", root)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("20,1,0.4,10,1.2,30,29,1,f,X,Win", "line 2: '20' is none of the 359 videos of iMiGUE"),
        ("x,1,0.4,10,1.2,30,29,1,f,X,Win", "line 2: 'x' is none of the 359 videos of iMiGUE"),
        ("12,0,0.4,10,1.2,30,29,1,f,X,Win", "line 2: label_id '0' is not a whole number from 1"),
        ("12,1,0.4,10,1.2,30,29,1,f,X", "line 2: 10 values, expected 11: video_id,label_id"),
    ],
)
def test_a_table_with_a_fault_names_the_line(tmp_path: Path, row: str, message: str) -> None:
    root = dataset_copies.imigue(tmp_path, form="table", videos=False)
    path = root / "Label/excel/labels_20200831.csv"
    header = path.read_text().split("\n")[0]
    dataset_copies.write(path, f"{header}\n{row}\n")
    with pytest.raises(DataError, match=message):
        read_source("imigue", root)
    dataset_copies.write(root / "labels.csv", f"{header}\n")
    with pytest.raises(DataError, match=r"2 tables of labels .* keep one"):
        read_source("imigue", root)


def test_labels_that_are_not_there_say_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no labels lie below .* labels_20200831.csv, or 0001_label.csv"):
        read_source("imigue", tmp_path)
    with pytest.raises(DataError, match=r"no labels lie below .* Sample0001_finelabels.csv"):
        read_source("smg", tmp_path)
