"""What `aplt data show` counts, exactly, and that its pictures hold whatever names and numbers there are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import yaml
from matplotlib.image import imread
from numpy.typing import NDArray
from typer.testing import CliRunner

from aplt.common.data.cache import CacheWriter, cache_settings
from aplt.common.data.datasets.dataset import named_classes
from aplt.common.data.frames import Failure, Frames
from aplt.common.data.manifest import Clip, csv_text, manifest_text, write_text
from aplt.common.data.prepared import (
    CLASSES,
    MANIFEST,
    PREPARED,
    QUARANTINE,
    TRUTH,
    classes_text,
    digest,
    load_pool,
    write_split,
)
from aplt.common.data.splits import Split, SplitRules
from aplt.common.drawing import STRIP_FRAMES, WIDTH, draw_strip, drawable, fitted, new_figure, pixel_axes, text_width
from aplt.common.errors import DataError
from aplt.deploy import showing
from aplt.deploy.cli import app
from aplt.deploy.overview import LABELLED, NO_PART, PARTS, TEST, UNLABELLED, Overview
from aplt.deploy.showing import class_histogram, class_sheet, show, video_picture

SPLIT = SplitRules().name
ODD = "w\udcff/ave $x^2$ 挥手\n" + "and on " * 40
NAMES = ("broken", "nod", ODD)
QUARANTINED = {"broken/b0": "the file is no video", "broken/b1": "no frame in 60 s"}
KNOWN = (("nod", 8), (ODD, 4), ("broken", 2))


def make(
    folder: Path,
    *,
    known: Sequence[tuple[str, int]] = KNOWN,
    num_unknown: int = 2,
    fps: Sequence[float | None] = (25.0,),
    names: Sequence[str] = NAMES,
) -> Path:
    """Prepare painted clips: in turn labelled, unlabelled, test and in no part; four groups; broken ones are bad."""
    labels = [(f"{label}/{label[0]}{i}", label) for label, num in known for i in range(num)]
    labels = sorted([*labels, *((f"x{i}", "") for i in range(num_unknown))])
    bad = {clip_id: reason for clip_id, reason in QUARANTINED.items() if (clip_id, "broken") in labels}
    sizes = ((64, 48), (48, 64), (64, 48), (32, 32))
    clips, cells = [], np.random.default_rng(0)
    settings = cache_settings(num_segments=4, frames_per_segment=2, size=16, fit="crop")
    with CacheWriter(folder / "cache" / "0a", settings=settings, identities=[[clip] for clip, _ in labels]) as cache:
        for row, (clip_id, _) in enumerate(labels):
            width, height = sizes[row % 4]
            rate = fps[row % len(fps)]
            if clip_id in bad:
                cache.add(row, Failure(bad[clip_id]))
                clips.append(Clip(clip_id=clip_id, video=clip_id))
                continue
            pixels = cells.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
            cache.add(row, Frames(pixels, rate or 0.0, 10 + row, width, height))
            clips.append(
                Clip(
                    clip_id=clip_id,
                    video=clip_id,
                    fps=rate,
                    nframes=10 + row,
                    width=width,
                    height=height,
                    group=f"s{row // 4 % 4}",
                )
            )
        cache.finish()
    files = {
        MANIFEST: manifest_text(clips),
        CLASSES: classes_text(named_classes(names)),
        TRUTH: csv_text(("clip_id", "label"), [(clip_id, label) for clip_id, label in labels if label]),
        QUARANTINE: csv_text(("clip_id", "reason"), bad.items()),
    }
    for name, text in files.items():
        write_text(folder / name, text)
    about = {"digest": "d", "cache": "0a", "pool": "p", "files": {name: digest(text) for name, text in files.items()}}
    write_text(folder / PREPARED, json.dumps(about))
    write_text(folder / "data.yaml", yaml.safe_dump({"data": {"root": "/nowhere", "clip_size": 16, "crop_size": 12}}))
    pool = load_pool(folder)
    turn_N = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(pool.labels_N):
        of_class = np.flatnonzero(pool.labels_N == label)
        turn_N[of_class] = 1 if label < 0 else np.arange(len(of_class)) % 4
    split = split_of(*(np.flatnonzero(turn_N == part) for part in (LABELLED, UNLABELLED, TEST)))
    write_split(folder, SPLIT, split, pool, origin={"imported": {}})
    return folder


def split_of(*rows: NDArray[np.int64]) -> Split:
    labeled, unlabeled, test = (part.astype(np.int32) for part in rows)
    return Split(labeled_rows=labeled, unlabeled_rows=unlabeled, test_rows=test)


def overview_of(folder: Path, **changes: Any) -> Overview:
    return Overview.read(make(folder, **changes), SPLIT)


def size_of(png: bytes) -> tuple[int, int]:
    height, width = imread(BytesIO(png), format="png").shape[:2]
    return width, height


def test_clips_are_counted_by_class_and_part(tmp_path: Path) -> None:
    overview = overview_of(tmp_path)
    assert overview.class_names == (*NAMES, "class not known")
    assert PARTS == ("labelled", "unlabelled", "test", "in no part", "in quarantine")
    assert overview.counts().tolist() == [[0, 0, 0, 0, 2], [2, 2, 2, 2, 0], [1, 1, 1, 1, 0], [0, 2, 0, 0, 0]]


def test_labelled_clips_that_are_unlabelled_too_count_once(tmp_path: Path) -> None:
    pool = load_pool(make(tmp_path))
    rows = np.arange(2, 8)
    write_split(tmp_path, "both", split_of(rows[:2], rows, rows[:0]), pool, origin={"imported": {}})
    assert Overview.read(tmp_path, "both").counts().sum(0).tolist() == [2, 4, 0, 8, 2]


def test_lengths_are_in_seconds_if_they_can_be(tmp_path: Path) -> None:
    lengths, unit, left_out = overview_of(tmp_path / "known").lengths()
    assert (unit, left_out) == ("seconds", 0)
    assert lengths.tolist() == pytest.approx([(10 + row) / 25 for row in range(2, 16)])
    lengths, unit, left_out = overview_of(tmp_path / "some", fps=(25.0, None)).lengths()
    assert (unit, left_out) == ("seconds", 7)
    assert lengths.tolist() == pytest.approx([(10 + row) / 25 for row in range(2, 16, 2)])
    lengths, unit, left_out = overview_of(tmp_path / "none", fps=(None,)).lengths()
    assert (unit, left_out) == ("frames", 0)
    assert lengths.tolist() == list(range(12, 26))


def test_sizes_rates_and_reasons_are_counted_most_frequent_first(tmp_path: Path) -> None:
    overview = overview_of(tmp_path, fps=(25.0, None, 29.97, 29.97))
    assert overview.frame_sizes() == [((64, 48), 7), ((32, 32), 4), ((48, 64), 3)]
    assert overview.frame_rates() == [(29.97, 8), (25.0, 3), (None, 3)]
    assert overview.bad_reasons() == [("no frame in 60 s", 1), ("the file is no video", 1)]


def test_picked_clips_are_spread_over_parts_and_groups(tmp_path: Path) -> None:
    overview = overview_of(tmp_path, known=[("nod", 64)], names=("nod",), num_unknown=0)
    rows = overview.pick(0, 8)
    assert overview.parts_N[rows].tolist() == sorted(2 * [LABELLED, UNLABELLED, TEST, NO_PART])
    assert len(set(rows)) == 8
    assert len(overview.pick(0, 3)) == 3
    assert len(overview.pick(0, 100)) == 64
    groups = [overview.data.manifest.group[row] for row in rows]
    assert sorted(groups) == sorted(2 * ["s0", "s1", "s2", "s3"])


def test_picked_clips_do_not_depend_on_the_others(tmp_path: Path) -> None:
    few = overview_of(tmp_path / "few", known=[("nod", 8)], names=("nod",), num_unknown=0)
    more = overview_of(tmp_path / "more", known=[("aaa", 4), ("nod", 8)], names=("aaa", "nod"), num_unknown=0)

    def ids(overview: Overview, label: int) -> list[str]:
        return [overview.data.manifest.clip_id[row] for row in overview.pick(label, 4)]

    assert ids(few, 0) == ids(more, 1)


def test_a_class_of_bad_clips_alone_has_a_sheet_that_says_so(tmp_path: Path) -> None:
    overview = overview_of(tmp_path)
    assert overview.pick(0, 6) == []
    width, height = size_of(class_sheet(overview, 0, crop_size=12))
    assert width == WIDTH
    assert 200 < height < 400


def test_shown_frames_are_those_of_the_test_view(tmp_path: Path) -> None:
    overview = overview_of(tmp_path)
    (clip,) = overview.data.clips.read(np.array([5], dtype=np.int32))
    shown = showing._shown_frames(overview, 5, 12)
    np.testing.assert_array_equal(shown, clip[[1, 3, 5, 7], 2:14, 2:14])
    assert len(shown) <= STRIP_FRAMES


@pytest.mark.parametrize("fps", [(25.0,), (None,), (25.0, None)])
def test_every_picture_holds_what_it_is_given(tmp_path: Path, fps: Sequence[float | None]) -> None:
    overview = overview_of(tmp_path, fps=fps)
    heights = []
    for png in (class_histogram(overview), video_picture(overview), class_sheet(overview, 2, crop_size=12)):
        width, height = size_of(png)
        assert width == WIDTH
        heights.append(height)
    assert all(300 < height < 1200 for height in heights)


def test_many_classes_share_pages(tmp_path: Path) -> None:
    names = [f"class {k:03d}" for k in range(17)]
    overview = overview_of(tmp_path, known=[(name, 1) for name in names], names=names, num_unknown=0)
    written = [path.relative_to(tmp_path).as_posix() for path in show(overview, crop_size=12, out=tmp_path / "p")]
    assert written == ["p/classes.png", "p/videos.png", "p/clips/000-008.png", "p/clips/009-016.png"]
    heights = [size_of((tmp_path / name).read_bytes())[1] for name in written[2:]]
    assert heights[0] - heights[1] == pytest.approx(heights[0] / 9, rel=0.15)


def test_pages_and_heights_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[int]] = []
    monkeypatch.setattr(showing, "MAX_CLASSES", 50)
    monkeypatch.setattr(showing, "MAX_PAGES", 3)
    monkeypatch.setattr(showing, "classes_sheet", lambda _, labels, **__: drawn.append(labels) or b"")
    names = [f"class {k:04d}" for k in range(80)]
    overview = overview_of(tmp_path, known=[(name, 1) for name in names], names=names, num_unknown=0)
    assert len(list(show(overview, crop_size=12, out=tmp_path / "p"))) == 2 + 3
    assert [label for labels in drawn for label in labels] == list(range(50))
    assert size_of((tmp_path / "p" / "classes.png").read_bytes())[1] < 900


def test_command_prints_the_files_it_wrote(tmp_path: Path) -> None:
    prepared = make(tmp_path / "prepared", known=KNOWN[1:], num_unknown=1)
    result = CliRunner().invoke(app, ["data", "show", str(prepared)])
    assert result.exit_code == 0, result.output
    paths = [Path(line) for line in result.stdout.splitlines()]
    names = [
        "classes.png",
        "videos.png",
        "00_broken.png",
        "01_nod.png",
        "02_w_ave_x_2_and_on",
        "03_class_not_known.png",
    ]
    assert [path.name[: len(name)] for path, name in zip(paths, names, strict=True)] == names
    assert all(path.is_relative_to(prepared / "pictures") for path in paths)
    assert all(size_of(path.read_bytes())[0] == WIDTH for path in paths)


def test_pictures_can_go_elsewhere_and_are_always_the_same(tmp_path: Path) -> None:
    prepared = make(tmp_path / "prepared", known=[("nod", 2)], names=("nod",), num_unknown=0)
    written = []
    for name in ("one", "two"):
        result = CliRunner().invoke(app, ["data", "show", str(prepared), "--out", str(tmp_path / name)])
        written.append([path.read_bytes() for path in map(Path, result.stdout.splitlines())])
        assert sorted(path.name for path in (tmp_path / name).rglob("*.png")) == [
            "00_nod.png",
            "classes.png",
            "videos.png",
        ]
    assert written[0] == written[1]
    assert not (prepared / "pictures").exists()


def test_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    overview = overview_of(tmp_path / "prepared")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="choose another folder with --out"):
        next(show(overview, crop_size=12, out=tmp_path / "file"))


def test_frames_are_averaged_to_the_size_that_is_drawn() -> None:
    ax = pixel_axes(new_figure("", ""))
    frames = np.zeros((2, 40, 40, 3), np.uint8)
    frames[:, ::2] = 200
    assert draw_strip(ax, frames, x=0, y=0, width=100, height=10) == pytest.approx((20.25, 10))
    drawn = np.asarray(ax.images[0].get_array())
    assert drawn.shape == (10, 20, 3)
    assert np.unique(drawn[:, :10]).tolist() == [100]


def test_texts_are_cut_to_the_width_that_there_is() -> None:
    assert fitted("short", 300, size=12) == "short"
    edges: dict[Literal["start", "end"], str] = {"start": "012", "end": "789"}
    for keep, edge in edges.items():
        cut = fitted("0123456789" * 20, 200, size=12, keep=keep)
        assert edge in (cut[:3], cut[-3:])
        assert 180 < text_width(cut, size=12) <= 200
    assert text_width("wide", size=12, weight="bold") > text_width("wide", size=12) > text_width("wide", size=11)
    assert fitted("anything", 0, size=12) == "…"


def test_what_the_font_cannot_draw_is_replaced() -> None:
    assert drawable("é Ω $x$\n挥\udcff\u202e") == "é Ω $x$????"
