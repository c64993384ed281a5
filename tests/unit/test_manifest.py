from __future__ import annotations

from pathlib import Path

import pytest

from aplt.common.data.manifest import Clip, csv_text, manifest_text, read_csv, read_manifest, write_text
from aplt.common.errors import DataError

CLIPS = (
    Clip(clip_id="a b/[1] é,x", video="a b/[1] é,x.mp4", group='the "first"', split="test", fps=29.97, nframes=75),
    Clip(clip_id="raw\udcff", video="raw\udcff.avi", start=0, end=9),
    Clip(clip_id="line\u2028separator", video="line\u2028separator.mkv"),
)


def test_a_manifest_survives_writing_and_reading(tmp_path: Path) -> None:
    write_text(tmp_path / "manifest.csv", manifest_text(CLIPS))
    assert read_manifest(tmp_path / "manifest.csv") == CLIPS


def test_the_manifest_has_no_labels_and_plain_line_ends() -> None:
    lines = manifest_text(CLIPS[:1]).split("\n")
    assert lines[0] == "clip_id,video,start,end,fps,nframes,group,split"
    assert lines[1] == '"a b/[1] é,x","a b/[1] é,x.mp4",,,29.97,75,"the ""first""",test'
    assert lines[2:] == [""]


def test_writing_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    write_text(tmp_path / "sub" / "a.txt", "old")
    write_text(tmp_path / "sub" / "a.txt", "new")
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.txt"]
    assert (tmp_path / "sub" / "a.txt").read_text() == "new"


def test_other_columns_missing_files_and_damaged_rows_are_data_errors(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(path)
    path.write_text(csv_text(("clip_id", "label"), [("a", "b")]))
    with pytest.raises(DataError, match=r"columns \['clip_id', 'label'\], expected \['clip_id', 'video'"):
        read_manifest(path)
    path.write_text("clip_id,label\na,b,c\n")
    with pytest.raises(DataError, match="another length"):
        read_csv(path, ("clip_id", "label"))
    path.write_text(manifest_text(CLIPS[:1]).replace(",test", ",both"))
    with pytest.raises(DataError, match=r"damaged \(split 'both'\)"):
        read_manifest(path)
    path.write_text(manifest_text(CLIPS[:1]).replace(",75,", ",many,"))
    with pytest.raises(DataError, match="damaged"):
        read_manifest(path)
