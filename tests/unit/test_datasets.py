"""What all data sets have in common: the table, options, subsets, missing videos."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import dataset_copies
import pytest

from aplt.common.data.datasets import check_source, read_source
from aplt.common.data.source import SourceClass, SourceClip
from aplt.common.data.subsets import most_frequent
from aplt.common.errors import DataError


@pytest.mark.parametrize(
    ("name", "subset", "options", "message"),
    [
        ("ma53", None, {}, "no data set 'ma53': expected one of ma52, "),
        ("ma52", "ma13", {}, "no subset 'ma13': expected ma12, top:K"),
        ("ma52", "top:0", {}, "no subset 'top:0'"),
        ("folder", "ma12", {}, "no subset 'ma12': expected top:K"),
        ("ma52", "top:13", {}, "subset top:13: 13 classes were asked for, but only 12 have 1 clips or more"),
        ("ma52", None, {"fold": 1}, "option fold of data set ma52 does not exist; its options are exclude"),
        ("ma52", None, {"exclude": [-1]}, "option exclude.0 of data set ma52 is -1: "),
        ("ma52", None, {"exclude": [52]}, "exclude names class 52, but there are only 0 to 51"),
    ],
)
def test_what_does_not_exist_is_named(
    tmp_path: Path, name: str, subset: str | None, options: Mapping[str, object], message: str
) -> None:
    root = dataset_copies.ma52(tmp_path, videos=False)
    with pytest.raises(DataError, match=message):
        read_source(name, root, subset=subset, options=options)


def test_clips_without_a_video_are_left_out_and_counted(tmp_path: Path) -> None:
    root = dataset_copies.ma52(tmp_path, videos=False)
    (root / "train/0003_01_0001.mp4").unlink()
    (root / "val/0003_02_0002.mp4").unlink()
    (root / "val/0007_02_0006.mp4").unlink()
    source = read_source("ma52", root)
    assert source.missing == ("0003_01_0001", "0003_02_0002", "0007_02_0006")
    assert len(source.clips) == 21
    assert f"train: 1 of 12 clips have no video below {root} ('0003_01_0001')" in source.notes
    assert f"val: 2 of 12 clips have no video below {root} ('0003_02_0002', '0007_02_0006')" in source.notes


def test_a_root_without_any_video_says_where_they_were_looked_for(tmp_path: Path) -> None:
    root = dataset_copies.ma52(tmp_path, videos=False)
    for path in root.rglob("*.mp4"):
        path.unlink()
    with pytest.raises(DataError, match=r"none of the 24 clips that MA-52 lists has a video below .*data check ma52"):
        read_source("ma52", root)


def test_lists_without_a_clip_are_a_data_error(tmp_path: Path) -> None:
    root = dataset_copies.ma52(tmp_path / "ma52", videos=False)
    for part in ("train", "val"):
        dataset_copies.write(root / f"annotations/{part}_list_videos.txt", "\r\n")
    with pytest.raises(DataError, match=r"MA-52 in .* has no clip to use: its lists are empty"):
        read_source("ma52", root)
    dataset_copies.write(tmp_path / "imigue/0012_label.csv", "class,start,end\n")
    with pytest.raises(DataError, match=r"iMiGUE in .* has no clip to use"):
        read_source("imigue", tmp_path / "imigue")


@pytest.mark.parametrize("name", ["ma52", "imigue", "smg", "ucf101", "hmdb51", "kinetics400"])
def test_archives_that_are_not_unpacked_are_named(tmp_path: Path, name: str) -> None:
    dataset_copies.write(tmp_path / "sub/Train.RAR", "")
    with pytest.raises(DataError, match=r"data.root; 1 archives there may have to be unpacked first \('Train.RAR'\)"):
        read_source(name, tmp_path)


def test_archives_of_videos_are_named_where_no_video_is_there(tmp_path: Path) -> None:
    root = dataset_copies.hmdb51(tmp_path, videos=False)
    for path in list(root.rglob("*.avi")):
        path.rename(path.with_suffix(".zip"))
    with pytest.raises(DataError, match=r"none of the 6 clips .*; 8 archives there may have to be unpacked first"):
        read_source("hmdb51", root)


def test_odd_names_and_files_of_other_kinds_are_passed_over(tmp_path: Path) -> None:
    root = dataset_copies.ma52(tmp_path, videos=False)
    expected = read_source("ma52", root)
    for name in (b"latin-\xe9.mp4", b"line\nbreak.mp4", b"._0003_01_0001.mp4", b"0003_01_0001.mp4.part"):
        (root / os.fsdecode(name)).touch()
    (root / "__MACOSX/train").mkdir(parents=True)
    (root / "__MACOSX/train/._0003_01_0001.mp4").touch()
    (root / "gone.mp4").symlink_to(root / "nowhere")
    assert read_source("ma52", root) == expected


def test_of_two_copies_of_a_video_the_one_in_the_folder_of_its_part_is_taken(tmp_path: Path) -> None:
    root = dataset_copies.ma52(tmp_path, videos=False)
    expected = read_source("ma52", root)
    for part in ("a", "val"):
        dataset_copies.write(root / part / "0003_01_0001.mp4", "")
    assert read_source("ma52", root) == expected


def test_a_folder_that_cannot_be_read_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, scan = dataset_copies.ma52(tmp_path, videos=False), os.scandir

    def refuse(path: str) -> object:  # permissions do not stop a superuser
        if os.path.basename(path) == "val":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"/val cannot be read \(Permission denied\): allow it, or move it out"):
        read_source("ma52", root)


def test_nothing_is_written_below_the_root(tmp_path: Path) -> None:
    for name in ("ma52", "imigue", "smg", "ucf101", "hmdb51", "kinetics400"):
        root = getattr(dataset_copies, name)(tmp_path / name, videos=False)
        before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
        read_source(name, root)
        check_source(name, root)
        assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_the_most_frequent_classes_are_counted_in_the_pool_alone() -> None:
    kinds = [SourceClass(name=name, number=number, original=name) for number, name in enumerate("abcd")]
    labels = {"train": "aabbbccd", "val": "cdd", "test": "aaaaaaa"}
    clips = [
        SourceClip(clip_id=f"{part}{place}", video="x", label=label, split=part)  # type: ignore[arg-type]
        for part, text in labels.items()
        for place, label in enumerate(text)
    ]
    assert most_frequent(clips, kinds, count=1) == (1,)  # b, c and d have 3 each: the lower number wins
    assert most_frequent(clips, kinds, count=3) == (1, 2, 3)
    assert most_frequent(clips, kinds, count=2, exclude={1}) == (2, 3)
    assert most_frequent(clips, kinds, count=1, pool=("train", "val", "test")) == (0,)
    with pytest.raises(DataError, match="4 classes were asked for, but only 3 have 3 clips or more"):
        most_frequent(clips, kinds, count=4, min_count=3)
