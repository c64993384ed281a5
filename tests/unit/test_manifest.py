from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aplt.common.data import manifest as module
from aplt.common.data.manifest import (
    Clip,
    Manifest,
    csv_text,
    manifest_text,
    read_columns,
    read_manifest,
    write_text,
)
from aplt.common.errors import DataError

CLIPS = (
    Clip(clip_id="a b/[1] é,x", video="a b/[1] é,x.mp4", group='the "first"', split="test", fps=29.97, nframes=75),
    Clip(clip_id="raw\udcff", video="raw\udcff.avi", start=0, end=9, width=640, height=480, recording="r", split="val"),
    Clip(clip_id="carriage\rreturn", video="carriage\rreturn.mkv"),
    Clip(clip_id="line\u2028separator", video="line\u2028separator.mkv"),
)


def test_a_manifest_survives_writing_and_reading(tmp_path: Path) -> None:
    write_text(tmp_path / "manifest.csv", manifest_text(CLIPS))
    manifest = read_manifest(tmp_path / "manifest.csv")
    assert tuple(manifest) == CLIPS
    assert manifest_text(manifest) == manifest_text(CLIPS)


def test_a_manifest_is_a_sequence_of_clips_in_columns() -> None:
    manifest = Manifest.of(CLIPS)
    assert len(manifest) == len(CLIPS)
    assert [manifest[row] for row in np.arange(len(CLIPS), dtype=np.int32)] == list(CLIPS)
    assert manifest[-1] == CLIPS[-1]
    assert tuple(manifest[1:]) == CLIPS[1:]
    with pytest.raises(IndexError):
        manifest[len(CLIPS)]
    assert manifest.clip_id == [clip.clip_id for clip in CLIPS]
    assert manifest.start.tolist() == [-1, 0, -1, -1]
    assert np.isnan(manifest.fps).tolist() == [False, True, True, True]
    assert tuple(Manifest.of([])) == ()


@pytest.mark.parametrize("special", ["", '"'])
def test_every_size_of_the_pieces_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, special: str
) -> None:
    clips = [Clip(clip_id=f"é{i}{special}", video=f"{i}\n{special}" if special else f"{i}", end=i) for i in range(9)]
    write_text(tmp_path / "manifest.csv", manifest_text(clips))
    for size in range(1, 80):
        monkeypatch.setattr(module, "_CHUNK_BYTES", size)
        assert list(read_manifest(tmp_path / "manifest.csv")) == clips


def test_the_manifest_has_no_labels_and_plain_line_ends() -> None:
    lines = manifest_text(CLIPS[:1]).split("\n")
    assert lines[0] == "clip_id,video,start,end,fps,nframes,width,height,group,recording,split"
    assert lines[1] == '"a b/[1] é,x","a b/[1] é,x.mp4",,,29.97,75,,,"the ""first""",,test'
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
        read_columns(path, ("clip_id", "label"))
    path.write_text(manifest_text(CLIPS[:1]).replace(",test", ",both"))
    with pytest.raises(DataError, match=r"column split is damaged \(there is no part 'both'"):
        read_manifest(path)
    path.write_text(manifest_text(CLIPS[:1]).replace(",75,", ",many,"))
    with pytest.raises(DataError, match=r"column nframes is damaged \(.*'many'"):
        read_manifest(path)
