from __future__ import annotations

import os
from pathlib import Path

import pytest

from aplt.common.data.datasets.dataset import class_names
from aplt.common.data.datasets.folder import read_folder
from aplt.common.data.datasets.table import read_table
from aplt.common.data.source import SourceClip
from aplt.common.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_folders_are_classes_and_clips_may_lie_deeper(tmp_path: Path) -> None:
    root = touch(
        tmp_path, "wave/s1_01.mp4", "wave/day 2/[b] s2_01.MOV", "nöd/s1_01.avi", "nöd/notes.txt", "nöd/.x.mp4", ".git/c"
    )
    clips = read_folder(root, group_regex=r"(s\d)_")
    assert clips == [
        SourceClip(clip_id="nöd/s1_01", video="nöd/s1_01.avi", label="nöd", group="s1"),
        SourceClip(clip_id="wave/day 2/[b] s2_01", video="wave/day 2/[b] s2_01.MOV", label="wave", group="s2"),
        SourceClip(clip_id="wave/s1_01", video="wave/s1_01.mp4", label="wave", group="s1"),
    ]
    assert class_names(clips) == ["nöd", "wave"]


def test_names_need_not_be_utf8(tmp_path: Path) -> None:
    root = touch(tmp_path, os.fsdecode(b"caf\xe9/1 \xff.mp4"), "wave/1.mp4")
    (clip, _) = read_folder(root)
    assert os.fsencode(clip.video) == b"caf\xe9/1 \xff.mp4"
    assert (root / clip.video).is_file()


def test_links_are_followed_once(tmp_path: Path) -> None:
    outside = touch(tmp_path / "outside", "1.mp4", "sub/2.mp4")
    root = touch(tmp_path / "root", "b/3.mp4")
    (root / "a").symlink_to(outside)
    (outside / "sub" / "up").symlink_to(outside)
    (root / "b" / "4.mp4").symlink_to(outside / "1.mp4")
    (root / "b" / "5.mp4").symlink_to(outside / "gone.mp4")
    assert [clip.clip_id for clip in read_folder(root)] == ["a/1", "a/sub/2", "b/3", "b/4", "b/5"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r"holds no clips: expected .*<class>/<clip>"),
        (("a/notes.txt",), "holds no clips"),
        (("a/1.mp4", "b/2.mp4", "3.mp4"), r"1 videos lie directly in .*'3.mp4'"),
        (("a/1.mp4", "b/2.mp4", "c/x.txt"), r"1 class folders .* hold no clips \('c'\)"),
        (("a/1.mp4", "a/1.avi", "b/2.mp4"), "'a/1' for a/1.(avi and a/1.mp4|mp4 and a/1.avi)"),
        (("Wave/1.mp4", "wave/2.mp4", "b/3.mp4"), r"differ only in case \('Wave' and 'wave'\)"),
        (("a/1.mp4",), "has 1 classes"),
        (("a/1\n2.mp4", "b/1.mp4"), "control characters"),
    ],
)
def test_folders_with_a_fault_are_data_errors(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_folder(touch(tmp_path, *names))


def test_a_root_that_is_no_folder_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        read_folder(tmp_path / "gone")
    with pytest.raises(DataError, match="is not a folder"):
        read_table(tmp_path / "gone", tmp_path / "labels.csv")


def test_a_group_that_is_not_found_names_examples(tmp_path: Path) -> None:
    root = touch(tmp_path, "a/s1_1.mp4", "a/odd.mp4", "b/s2_1.mp4")
    with pytest.raises(DataError, match=r"'\^\(s.\)' finds no group in 1 of 3 file names \('odd'\)"):
        read_folder(root, group_regex="^(s.)")
    with pytest.raises(DataError, match="no regular expression"):
        read_folder(root, group_regex="(s")
    with pytest.raises(DataError, match="has no group"):
        read_folder(root, group_regex="s.")


def test_a_table_names_clips_parts_of_files_and_unlabelled_ones(tmp_path: Path) -> None:
    root = touch(tmp_path, "long.mp4", "é [1].avi", "sub/x.mp4", "sub/y.mp4")
    labels = table(
        tmp_path,
        "\ufeffpath, label ,group,split,start,end\r\n"
        "long.mp4,nod,p1,train,0,9\r\n"
        "long.mp4,wave,p1,train,10,\r\n"
        "\r\n"
        "é [1].avi,nod,p2,test,,\r\n"
        '"./sub/x.mp4",,p2,,,\r\n'
        "sub/y.mp4,wave,p3,,,",
    )
    clips = read_table(root, labels)
    assert clips == [
        SourceClip(clip_id="long@0-9", video="long.mp4", label="nod", group="p1", split="train", start=0, end=9),
        SourceClip(clip_id="long@10-", video="long.mp4", label="wave", group="p1", split="train", start=10),
        SourceClip(clip_id="sub/x", video="sub/x.mp4", label=None, group="p2"),
        SourceClip(clip_id="sub/y", video="sub/y.mp4", label="wave", group="p3"),
        SourceClip(clip_id="é [1]", video="é [1].avi", label="nod", group="p2", split="test"),
    ]
    assert class_names(clips) == ["nod", "wave"]


def test_the_regular_expression_names_groups_where_the_table_does_not(tmp_path: Path) -> None:
    root = touch(tmp_path, "s1_1.mp4", "s2_1.mp4")
    labels = table(tmp_path, "clip,label,group\ns1_1.mp4,a,someone\ns2_1.mp4,b,\n")
    assert [clip.group for clip in read_table(root, labels, group_regex="^(s.)")] == ["someone", "s2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"columns \(none\): expected path"),
        ("path,label\n", "names no clips"),
        ("path,label,speaker\n1.mp4,a,x\n", "columns path, label, speaker: expected"),
        ("path,clip,label\n1.mp4,1.mp4,a\n", "columns path, clip, label"),
        ("path,label,label\n1.mp4,a,a\n", "each once"),
        ("path\n1.mp4\n", "columns path: expected"),
        ("path;label\n1.mp4;a\n", "separated by commas"),
        ("path,label\n1.mp4,a\n2.mp4\n", "line 3: 1 values for 2 columns"),
        ("path,label\n../1.mp4,a\n", r"line 2: path '\.\./1.mp4' must name a file inside data.root"),
        ("path,label\nsub/../../1.mp4,a\n", "must name a file inside"),
        ("path,label\n/etc/1.mp4,a\n", "must name a file inside"),
        ("path,label\n,a\n", "must name a file inside"),
        ("path,label\n1.mp4,a\n3.mp4,b\n", r"1 of 2 files .* do not exist in .* \('3.mp4'\)"),
        ("path,label\n1.mp4,a\n1.mp4,b\n", "'1' for 1.mp4 and 1.mp4"),
        ("path,label\n1.mp4,Nod\n2.mp4,nod\n", "differ only in case"),
        ("path,label\n1.mp4,\n2.mp4,\n", "has 0 classes"),
        ("path,label,split\n1.mp4,a,dev\n", "split is 'dev', expected train, val or test"),
        ("path,label,start,end\n1.mp4,a,9,3\n", "ends at frame 3, before its start at frame 9"),
        ("path,label,start\n1.mp4,a,-1\n", "frame '-1' is not a whole number"),
        ("path,label,end\n1.mp4,a,1.5\n", "frame '1.5' is not a whole number"),
    ],
)
def test_tables_with_a_fault_are_data_errors(tmp_path: Path, text: str, message: str) -> None:
    root = touch(tmp_path, "1.mp4", "2.mp4")
    with pytest.raises(DataError, match=message):
        read_table(root, table(tmp_path, text))


def test_a_table_that_cannot_be_read_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path, tmp_path / "gone.csv")
    (tmp_path / "latin.csv").write_bytes(b"path,label\n\xe9.mp4,a\n")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_table(tmp_path, tmp_path / "latin.csv")
