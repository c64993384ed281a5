"""Copies compared with what is published, and the subsets that complete lists give."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import dataset_copies
import full_lists
import pytest

from aplt.common.data.datasets import DATASETS, check_source
from aplt.common.data.datasets.dataset import Listing
from aplt.common.data.datasets.published import table
from aplt.common.data.source import Part
from aplt.common.data.subsets import most_frequent

TRAIN, VAL, TEST = cast("list[Part]", ["train", "val", "test"])
DOCS = Path(__file__).parents[2] / "docs" / "datasets"
MA12 = (5, 7, 8, 9, 10, 17, 21, 22, 23, 31, 48, 49)
SMG5 = (2, 4, 7, 8, 11)
IMIGUE11 = (1, 7, 10, 16, 19, 21, 22, 23, 25, 28, 30)


def test_published_tables_add_up() -> None:
    def total(name: str, part: str) -> int:
        return sum(int(row[part]) for row in table(name))

    assert (total("ma52", "train"), total("ma52", "val")) == (11250, 5586)
    coarse = {row["coarse"]: 0 for row in table("ma52")}
    for row in table("ma52"):
        coarse[row["coarse"]] += int(row["train"])
    assert list(coarse.values()) == [644, 4473, 2626, 1441, 317, 719, 1030]
    assert (total("imigue", "train"), total("imigue", "val")) == (12893, 777)
    assert (total("smg", "train"), total("smg", "val"), total("smg", "test")) == (2452, 637, 610)
    for name, noun, sums in (
        ("imigue_videos", "video", {"train": (241, 0), "val": (10, 777), "test": (104, 4562)}),
        ("smg_samples", "sample", {"train": (30, 2452), "val": (5, 637), "test": (5, 610)}),
    ):
        rows = table(name)
        assert len({row[noun] for row in rows}) == len(rows)
        for part, expected in sums.items():
            clips = [int(row["clips"] or 0) for row in rows if row["part"] == part]
            assert (len(clips), sum(clips)) == expected
    assert [len(table(name)) for name in ("ucf101", "hmdb51", "kinetics400")] == [101, 51, 400]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("ma52", 111), ("imigue", 422), ("smg", 94), ("ucf101", 2), ("hmdb51", 103), ("kinetics400", 803)],
)
def test_complete_lists_are_ok_without_any_video(tmp_path: Path, name: str, numbers: int) -> None:
    write = {
        "ucf101": lambda root: full_lists.ucf101(root, fold=1, train=9537, test=3783),
        "kinetics400": lambda root: full_lists.kinetics400(root, per_class=40),
    }.get(name) or getattr(full_lists, name)
    comparison = check_source(name, write(tmp_path))
    assert len(comparison.counts) == numbers
    assert not comparison.differences
    assert comparison.ok
    lines = comparison.lines()
    assert lines[0] == f"{DATASETS[name].title} in {tmp_path}"
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert "\n".join([f"{DATASETS[name].title} in R", *lines[1:]]) in page
    assert lines[-1] == "OK"


def test_other_folds_and_pools_have_their_own_numbers(tmp_path: Path) -> None:
    full_lists.ucf101(tmp_path, fold=2, train=9586, test=3734)
    full_lists.ucf101(tmp_path, fold=3, train=9624, test=3696)
    full_lists.hmdb51(tmp_path)
    for fold in (2, 3):
        assert not check_source("ucf101", tmp_path, options={"fold": fold}).differences
    assert not check_source("hmdb51", tmp_path, options={"pool": "all"}).differences


def test_a_clip_that_is_not_there_is_named_by_part_and_class(tmp_path: Path) -> None:
    path = full_lists.ma52(tmp_path) / "val_list_videos.txt"
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:-1]))
    lines = check_source("ma52", tmp_path).lines()
    assert lines[1:] == [
        "clips per part: 1 of 3 differ",
        "  val: 5585, published 5586",
        "clips per class: 1 of 104 differ",
        "  val, class 51 (scratching feet): 9, published 10",
        "subjects and recordings: 4 of 4 agree",
        "train: 11250 clips listed, 0 have their video",
        "val: 5585 clips listed, 0 have their video",
        "test: 5586 clips listed, 0 have their video",
        "note: test: 5586 clips are left out, because their labels are not public",
        "2 of 111 numbers differ from the published",
    ]


def test_a_changed_class_is_named_in_both_classes(tmp_path: Path) -> None:
    path = full_lists.smg(tmp_path) / "Sample0036/Sample0036_finelabels.csv"
    first, rest = path.read_text().split(",", 1)
    assert first == "17"
    path.write_text(f"1,{rest}")
    assert [(count.what, count.found) for count in check_source("smg", tmp_path).differences] == [
        ("test, class 0 (Turtling neck and shoulder)", 14),
        ("test, class 16 (Illustrative hand gestures (non-MG))", 8),
    ]


def test_a_lost_row_is_named_by_its_video(tmp_path: Path) -> None:
    path = full_lists.imigue(tmp_path) / "0054/0054_label.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]) + "1,9,3\n")
    (tmp_path / "0012/0012_label.csv").unlink()
    found = {count.what: (count.found, count.expected) for count in check_source("imigue", tmp_path).differences}
    assert found["test, video 0054"] == (59, 61)
    assert found["train, video 0012"] == (0, 1)
    assert found["test"] == (4560, 4562)


def test_the_first_release_of_imigue_has_four_more_videos(tmp_path: Path) -> None:
    full_lists.imigue(tmp_path)
    rows = "".join(f"1,{n * 9},{n * 9 + 5}\n" for n in range(266))
    dataset_copies.write(tmp_path / "0218/0218_label.csv", rows)
    assert not check_source("imigue", tmp_path).differences
    dataset_copies.write(tmp_path / "0319/0319_label.csv", "1,0,5\n")
    (difference,) = check_source("imigue", tmp_path).differences
    assert (difference.what, difference.found) == ("videos 218, 319, 347, 348 together", 267)


def test_a_test_part_that_is_not_there_is_not_compared(tmp_path: Path) -> None:
    (full_lists.ma52(tmp_path / "ma52") / "test_list_videos.txt").unlink()
    for path in full_lists.smg(tmp_path / "smg").glob("Sample003[6-9]/*"):
        path.unlink()
    (tmp_path / "smg/Sample0040/Sample0040_finelabels.csv").unlink()
    for name in ("ma52", "smg"):
        comparison = check_source(name, tmp_path / name)
        assert not comparison.differences
        assert comparison.notes == ("test: no list of it is there, so it was not compared",)


def test_the_short_test_list_of_the_challenges_is_ok(tmp_path: Path) -> None:
    path = full_lists.ma52(tmp_path) / "test_list_videos.txt"
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:1138]))
    assert not check_source("ma52", tmp_path).differences


def test_too_many_clips_of_a_class_of_kinetics_are_named(tmp_path: Path) -> None:
    full_lists.kinetics400(tmp_path, per_class=51)
    lines = check_source("kinetics400", tmp_path).lines(shown=1)
    assert lines[2] == "  val: 20400, published at most 19907"
    assert lines[4:6] == [
        "  val, class 0 (abseiling): 51, published at most 50",
        "  ... and 399 more",
    ]


def test_missing_videos_are_listed_by_part(tmp_path: Path) -> None:
    root = dataset_copies.ma52(tmp_path, videos=False)
    (root / "val/0003_02_0002.mp4").unlink()
    (root / "test/test0000.mp4").unlink()
    comparison = check_source("ma52", root)
    assert not comparison.ok
    assert comparison.missing == {"val": ("0003_02_0002",)}
    assert comparison.clips == {"train": (12, 12), "val": (12, 11), "test": (2, 1)}
    lines = comparison.lines()
    place = lines.index("val: 12 clips listed, 11 have their video")
    assert lines[place + 1] == "  no video: 0003_02_0002"
    assert lines[-1] == "111 of 111 numbers differ from the published; 1 clips have no video"


def test_own_clips_are_ok_if_they_can_be_read(tmp_path: Path) -> None:
    for name in ("a/1.mp4", "b/1.mp4"):
        dataset_copies.write(tmp_path / name, "")
    lines = check_source("folder", tmp_path).lines()
    assert lines[1:] == ["no part: 2 clips listed, 2 have their video", "OK"]


@pytest.mark.parametrize(
    ("name", "pools", "expected"),
    [
        ("ma52", ([TRAIN], [VAL], [TRAIN, VAL]), MA12),
        ("smg", ([TRAIN], [TRAIN, VAL], [TRAIN, VAL, TEST]), SMG5),
        ("imigue", ([TRAIN], [TRAIN, VAL]), IMIGUE11),
    ],
)
def test_subsets_are_the_same_whatever_parts_are_counted(
    tmp_path: Path, name: str, pools: list[list[Part]], expected: tuple[int, ...]
) -> None:
    listing = _listing(name, tmp_path)
    exclude = (31,) if name == "imigue" else ()
    for pool in pools:
        found = most_frequent(listing.clips, listing.classes, count=len(expected), pool=pool, exclude=exclude)
        assert found == expected
    (subset,) = DATASETS[name].subsets.values()
    assert subset.numbers == expected
    found = most_frequent(listing.clips, listing.classes, count=subset.count, pool=subset.pool, exclude=subset.exclude)
    assert found == expected


def test_the_other_imigue11_has_the_class_that_is_no_micro_gesture(tmp_path: Path) -> None:
    listing = _listing("imigue", tmp_path)
    assert most_frequent(listing.clips, listing.classes, count=11) == (1, 7, 10, 16, 19, 21, 22, 23, 28, 30, 31)


@pytest.mark.parametrize(
    ("name", "numbers", "parts", "expected"),
    [
        ("ma52", MA12, [TRAIN], 7028),
        ("ma52", MA12, [VAL], 3503),
        ("smg", SMG5, [TRAIN], 2035),
        ("smg", SMG5, [TRAIN, VAL], 2611),
        ("smg", SMG5, [TRAIN, VAL, TEST], 3139),
        ("smg", SMG5, [TEST], 528),
        ("imigue", IMIGUE11, [TRAIN], 7912),
        ("imigue", IMIGUE11, [TRAIN, VAL], 8368),
    ],
)
def test_subsets_have_the_expected_sizes(
    tmp_path: Path, name: str, numbers: tuple[int, ...], parts: list[Part], expected: int
) -> None:
    listing = _listing(name, tmp_path)
    names = {listing.classes[number].name for number in numbers}
    assert sum(clip.label in names and clip.split in parts for clip in listing.clips) == expected


def _listing(name: str, root: Path) -> Listing:
    dataset = DATASETS[name]
    listing: Listing = dataset.read(getattr(full_lists, name)(root), dataset.options())
    return listing
