from __future__ import annotations

import shutil
from pathlib import Path

import dataset_copies
import pytest

from aplt.common.data.datasets import read_source
from aplt.common.data.source import SourceClass, SourceClip
from aplt.common.errors import DataError

MA12 = (5, 7, 8, 9, 10, 17, 21, 22, 23, 31, 48, 49)


def test_clips_have_class_subject_recording_and_part(tmp_path: Path) -> None:
    source = read_source("ma52", dataset_copies.ma52(tmp_path, videos=False))
    assert len(source.clips) == 24
    assert source.clips[0] == SourceClip(
        clip_id="0003_01_0001",
        video="train/0003_01_0001.mp4",
        label="bowing head",
        group="0003",
        recording="0003_01",
        split="train",
    )
    assert [clip.split for clip in source.clips].count("val") == 12
    assert len(source.classes) == 52
    assert source.classes[9] == SourceClass(name="nodding", number=9, original="9", coarse="head")


def test_a_test_list_of_zeros_has_no_labels(tmp_path: Path) -> None:
    root = dataset_copies.ma52(tmp_path, videos=False)
    assert read_source("ma52", root).notes == ("test: 2 clips are left out, because their labels are not public",)
    dataset_copies.write(root / "annotations/test_list_videos.txt", "test0000.mp4 9\r\ntest0001.mp4 5")
    source = read_source("ma52", root)
    assert [(clip.clip_id, clip.label) for clip in source.clips if clip.split == "test"] == [
        ("test0000", "nodding"),
        ("test0001", "bowing head"),
    ]
    assert source.notes == ()


@pytest.mark.parametrize("layout", ["videos_{}", "Microaction-52/{}", "data/videos/{0}/{0}", "ma 52 [x];/videos_{}"])
def test_videos_are_found_at_whatever_depth(tmp_path: Path, layout: str) -> None:
    root = dataset_copies.ma52(tmp_path, videos=False)
    for part in ("train", "val"):
        (root / layout.format(part)).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(root / part, root / "moved")
        (root / "moved").rename(root / layout.format(part))
    source = read_source("ma52", root)
    assert [clip.video for clip in source.clips if clip.clip_id == "0003_01_0001"] == [
        f"{layout.format('train')}/0003_01_0001.mp4"
    ]
    assert not source.missing


def test_a_linked_folder_shows_its_clips_once(tmp_path: Path) -> None:
    outside = dataset_copies.ma52(tmp_path / "outside", videos=False)
    root = tmp_path / "root"
    root.mkdir()
    for part in ("train", "val"):
        (root / f"videos_{part}").symlink_to(outside / part)
    (root / "again").symlink_to(root)
    shutil.move(outside / "annotations", root / "annotations")
    source = read_source("ma52", root)
    assert source.clips[0].video == "videos_train/0003_01_0001.mp4"
    assert not source.missing


def test_lists_may_have_any_line_ends_and_a_mark_and_lie_there_twice(tmp_path: Path) -> None:
    root = dataset_copies.ma52(tmp_path, videos=False)
    expected = read_source("ma52", root)
    for path in (root / "annotations").iterdir():
        text = path.read_bytes().decode().replace("\r\n", "\n")
        path.write_bytes(("\ufeff\n" + text.rstrip()).encode())
    shutil.copytree(root / "annotations", root / "annotations-2024/annotations")
    assert read_source("ma52", root) == expected


def test_without_a_file_of_names_the_published_ones_are_taken(tmp_path: Path) -> None:
    root = dataset_copies.ma52(tmp_path, videos=False)
    (root / "annotations/label_name.txt").unlink()
    classes = read_source("ma52", root).classes
    assert [classes[number].name for number in dataset_copies.MA52_NAMES] == list(dataset_copies.MA52_NAMES.values())
    assert classes[3].name == "turning around"


def test_ma12_keeps_the_numbers_of_its_classes(tmp_path: Path) -> None:
    source = read_source("ma52", dataset_copies.ma52(tmp_path, videos=False), subset="ma12")
    assert tuple(kind.number for kind in source.classes) == MA12
    assert source.notes[-1] == "subset ma12: the 12 classes with most clips are 5 7 8 9 10 17 21 22 23 31 48 49"
    source = read_source("ma52", tmp_path, subset="ma12", options={"exclude": []})
    few = read_source("ma52", tmp_path, subset="top:2", options={"exclude": [5]})
    assert [kind.number for kind in few.classes] == [7, 8]
    assert {clip.label for clip in few.clips} == {"tilting head", "turning head"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train_list_videos.txt", "0003_01_0001.mp4 52\r\n", "line 1: .* a class from 0 to 51"),
        ("train_list_videos.txt", "0003_01_0001.mp4 5\r\n0003_01_0002.mp4\r\n", "line 2: '0003_01_0002.mp4' is not"),
        ("val_list_videos.txt", "0003_01_0001.mp4 x", "line 1: '0003_01_0001.mp4 x' is not"),
        ("val_list_videos.txt", "0003_01_0001.mp4 9", r"1 clip ids .* occur more than once, such as '0003_01_0001'"),
        ("label_name.txt", "0\tshaking body\r\n0\tnodding", "line 2: .* is not a new number, a TAB and a name"),
        ("label_name.txt", "0\tshaking body", "names 1 classes: expected each of 0 to 51 once"),
        ("label_name.txt", "\n".join(f"{n}\tclass {n % 51}" for n in range(52)), "differ only in case"),
        ("label_name.txt", "\n".join(f"{n}\t{'ABab'[n] if n < 4 else n}" for n in range(52)), "'A' and 'a'"),
    ],
)
def test_lists_with_a_fault_name_the_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    root = dataset_copies.ma52(tmp_path, videos=False)
    dataset_copies.write(root / "annotations" / name, text)
    with pytest.raises(DataError, match=message):
        read_source("ma52", root)


def test_lists_that_are_missing_differ_or_are_no_text_are_data_errors(tmp_path: Path) -> None:
    root = dataset_copies.ma52(tmp_path, videos=False)
    dataset_copies.write(root / "other/val_list_videos.txt", "0003_02_0001.mp4 9\r\n")
    with pytest.raises(DataError, match=r"2 files val_list_videos.txt that differ .* keep one"):
        read_source("ma52", root)
    (root / "other/val_list_videos.txt").unlink()
    (root / "annotations/val_list_videos.txt").write_bytes(b"\xe9.mp4 9\n")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_source("ma52", root)
    (root / "annotations/val_list_videos.txt").unlink()
    with pytest.raises(DataError, match=r"no val_list_videos.txt lies below .* public repository"):
        read_source("ma52", root)
    with pytest.raises(DataError, match="is not a folder"):
        read_source("ma52", root / "gone")
