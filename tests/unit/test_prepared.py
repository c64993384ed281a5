"""Preparing whole directories, with a decoder that paints instead of reading, and once with real files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from painted_clips import RULES, Place, sizes

from aplt.common.data.check import check
from aplt.common.data.frames import FrameSpec, Job
from aplt.common.data.prepare import PrepareProgress, add_split, import_split
from aplt.common.data.prepared import PreparedData, load_truth, split_names
from aplt.common.data.splits import LabeledRule, SplitRules, TestRule
from aplt.common.errors import DataError

LIPS = Path(__file__).parents[3] / "shared" / "data" / "lips"


def test_what_is_prepared_is_what_is_read(place: Place) -> None:
    steps: list[PrepareProgress] = []
    report = place.prepare(progress=steps.append)
    # s1 and s4, every third, are for testing; of the 6 clips per class left floor(0.25 * 6 + 0.5) = 2 are labelled.
    assert (report.num_clips, report.decoded_now) == (24, 24)
    assert sizes(place.open()) == (4, 8, 12)
    assert report.class_counts == {"nod é": 12, "wave [x]": 12}
    assert report.quarantined == []
    assert steps[0] == PrepareProgress("scanning", 0, 24)
    assert steps[1:] == [PrepareProgress("decoding", done, 24) for done in range(25)]

    data = place.open()
    assert data.class_names == ("nod é", "wave [x]")
    assert [clip.clip_id for clip in data.manifest] == sorted(clip.clip_id for clip in data.manifest)
    assert {data.manifest[row].group for row in data.test_rows_T} == {"s1", "s4"}
    rows = np.concatenate([data.labeled_rows_M, data.unlabeled_rows_N, data.test_rows_T])
    assert sorted(rows) == list(range(24))
    assert [rows.dtype.name for rows in (data.labeled_rows_M, data.labels_M, data.test_rows_T)] == [
        "int32",
        "int16",
        "int32",
    ]
    assert [data.manifest[row].clip_id.split("/")[0] for row in data.labeled_rows_M] == [
        data.class_names[label] for label in data.labels_M
    ]
    assert (data.manifest[0].fps, data.manifest[0].nframes) == (29.97, 40)
    truth = load_truth(place.prepared)
    assert (truth.dtype.name, truth.tolist()) == ("int16", [0] * 12 + [1] * 12)
    painted = np.stack(
        [
            place.decoder(
                Job(0, str(place.root / data.manifest[row].video)), FrameSpec(num_frames=2, size=8)
            ).frames_FHWC
            for row in range(24)
        ]
    )
    np.testing.assert_array_equal(data.clips.read(np.arange(24, dtype=np.int32)), painted)


def test_labels_are_in_two_files_and_the_services_open_only_one(place: Place) -> None:
    place.prepare()
    (place.prepared / "truth.csv").unlink()
    place.open()
    assert "label" not in place.table("manifest.csv")[0]
    split = f"splits/{RULES.name}"
    shown, hidden = (
        {row["clip_id"]: row for row in place.table(f"{split}/{part}.csv")} for part in ("labeled", "unlabeled")
    )
    assert (len(shown), len(hidden)) == (4, 8)
    assert not shown.keys() & hidden.keys()
    assert {(row["video"], row["label"]) for row in shown.values()} == {
        (f"{clip_id}.mp4", clip_id.split("/")[0]) for clip_id in shown
    }
    assert all(row.keys() == {"clip_id", "video"} for row in hidden.values())
    about = json.loads((place.prepared / split / "split.json").read_text())
    assert SplitRules.model_validate(about["rules"]) == RULES
    assert (about["clips"], about["labeled"]) == (
        {"labeled": 4, "unlabeled": 8, "test": 12},
        {"nod é": 2, "wave [x]": 2},
    )


def test_a_second_call_does_nothing_and_splits_of_other_rules_lie_beside_the_first(place: Place) -> None:
    place.prepare()
    first = place.open()
    times = {path: path.stat().st_mtime_ns for path in place.prepared.rglob("*.json")}
    assert place.prepare().decoded_now == 0
    assert {path: path.stat().st_mtime_ns for path in place.prepared.rglob("*.json")} == times
    other = SplitRules(labeled=LabeledRule(ratio=0.5), test=TestRule(rule="random", every=2))
    assert place.prepare(rules=other).decoded_now == 0
    assert sizes(place.open(other)) == (6, 6, 12)
    assert place.open(other).digest != first.digest
    assert place.open().digest == first.digest
    assert split_names(place.prepared) == sorted([RULES.name, other.name])


def test_splits_can_be_added_where_the_videos_are_not(place: Place) -> None:
    place.prepare(rules=None)
    with pytest.raises(DataError, match=r"has no split .* \(there are: none\): `aplt data split` makes one"):
        place.open()
    shutil.rmtree(place.root)
    add_split(place.prepared, RULES)
    assert sizes(place.open()) == (4, 8, 12)


def test_a_split_of_other_clips_is_not_used(place: Place) -> None:
    place.prepare()
    place.write("wave [x]/s2_9.mp4", "new")
    place.prepare(rules=None)
    with pytest.raises(DataError, match="was drawn from other clips than are prepared now"):
        place.open()
    add_split(place.prepared, RULES)
    assert sizes(place.open()) == (4, 9, 12)


def test_lists_of_another_codebase_become_a_split(place: Place) -> None:
    place.prepare()
    lists = place.folder
    (lists / "labeled.txt").write_text("/data/k/wave [x]/s2_0.mp4 1\r\n/data/k/nod é/s2_1.mp4 0", encoding="utf-8")
    (lists / "test.csv").write_text("path,frames,label\nwave [x]/s1_0.mp4,40,1\nnod é/s1_0,40,0\n", encoding="utf-8")
    import_split(place.prepared, "theirs", rules=RULES, labeled=lists / "labeled.txt", test=lists / "test.csv")
    data = PreparedData.open(place.prepared, "theirs")
    names = [[data.manifest.clip_id[row] for row in rows] for rows in (data.labeled_rows_M, data.test_rows_T)]
    assert names == [["nod é/s2_1", "wave [x]/s2_0"], ["nod é/s1_0", "wave [x]/s1_0"]]
    assert data.labels_M.tolist() == [0, 1]
    assert sizes(data) == (2, 10, 2)  # the other clips that the rules train with

    (lists / "more.txt").write_text("wave [x]/s2_0\nwave [x]/s4_9\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"1 of 2 lines of .*more.txt name no clip .*line 2: wave \[x\]/s4_9"):
        import_split(place.prepared, "more", rules=RULES, labeled=lists / "more.txt")
    (lists / "more.txt").write_text("wave [x]/s2_0\nwave [x]/s2_0.mp4\n", encoding="utf-8")
    with pytest.raises(DataError, match="more than once"):
        import_split(place.prepared, "more", rules=RULES, labeled=lists / "more.txt")
    (lists / "more.txt").write_text("wave [x]/s2_0\nnod é/s1_0\n", encoding="utf-8")
    with pytest.raises(DataError, match="are for training and for testing"):
        import_split(place.prepared, "more", rules=RULES, labeled=lists / "more.txt", test=lists / "test.csv")
    with pytest.raises(DataError, match="no name of a split"):
        import_split(place.prepared, "../more", rules=RULES, labeled=lists / "labeled.txt")


def test_renamed_and_copied_files_are_not_decoded_again(place: Place) -> None:
    place.prepare()
    for path in sorted(place.root.rglob("*.mp4")):
        os.utime(path, (1, 1))
    (place.root / "nod é" / "s1_0.mp4").rename(place.root / "nod é" / "s1_7.mp4")
    shutil.copy(place.root / "nod é" / "s2_0.mp4", place.root / "nod é" / "s2_7.mp4")
    assert place.prepare().decoded_now == 0
    data = place.open()
    row, copy = (data.manifest.clip_id.index(f"nod é/{name}") for name in ("s2_0", "s2_7"))
    pixels = data.clips.read(np.array([row, copy], dtype=np.int32))
    assert np.array_equal(pixels[0], pixels[1])


def test_new_and_changed_clips_alone_are_decoded(place: Place) -> None:
    place.prepare()
    place.write("wave [x]/s2_9.mp4", "new")
    place.write("nod é/s1_0.mp4", "another text")
    (place.root / "nod é" / "s1_1.mp4").unlink()
    assert place.prepare().decoded_now == 2
    data = place.open()
    assert len(data.manifest) == 24
    assert len(list((place.prepared / "cache").iterdir())) == 1
    assert place.prepare(size=12).decoded_now == 24
    assert place.open().clips.size == 12


def test_a_table_with_its_own_split_and_unlabelled_clips(place: Place) -> None:
    rows = [f"wave [x]/s1_{i}.mp4,wave,train" for i in range(3)] + [f"nod é/s1_{i}.mp4,nod,test" for i in range(2)]
    rows += ["nod é/s2_0.mp4,nod,train", "nod é/s2_1.mp4,,train", "wave [x]/s4_0.mp4,,test"]
    labels = place.folder / "labels.csv"
    labels.write_text("\n".join(["path,label,split", *rows]), encoding="utf-8")
    rules = SplitRules(labeled=LabeledRule(rule="all"))
    place.prepare(adapter="csv", labels=labels, group_regex=None, rules=rules)
    data = place.open(rules)
    assert sizes(data) == (4, 1, 3)
    assert [data.manifest[row].clip_id for row in data.unlabeled_rows_N] == ["nod é/s2_1"]
    assert load_truth(place.prepared).tolist() == [0, 0, 0, -1, 1, 1, 1, -1]


def test_check_finds_what_training_would_not_notice(place: Place) -> None:
    place.write("nod é/s1_0.mp4", "same")
    place.write("nod é/s2_0.mp4", "same")
    place.write("nod é/s2_1.mp4", "bad")
    place.write("wave [x]/s1_1.mp4", "twin")
    place.write("wave [x]/s1_2.mp4", "twin")
    few = SplitRules(test=TestRule(rule="group"), labeled=LabeledRule(ratio=0.1))
    place.prepare(rules=few)
    (place.root / "wave [x]" / "s3_0.mp4").unlink()
    folder = next((place.prepared / "cache").iterdir())
    pixels = np.load(folder / "clips.npy", mmap_mode="r+")
    pixels[5] ^= 1
    pixels.flush()
    findings = check(root=place.root, prepared=place.prepared, split=few.name)
    assert {finding.kind: finding.names for finding in findings} == {
        "damaged": ("nod é/s2_2",),
        "missing": ("wave [x]/s3_0",),
        "quarantined": ("nod é/s2_1",),
        "leak": ("nod é/s1_0", "nod é/s2_0"),
        "duplicate": ("wave [x]/s1_1", "wave [x]/s1_2"),
        "few labels": ("nod é", "wave [x]"),
    }
    assert [finding.severity for finding in findings] == ["error"] + ["warning"] * 5
    mixed = SplitRules(test=TestRule(rule="random"))
    place.prepare(rules=mixed)
    data = place.open(mixed)
    test = {data.manifest.group[row] for row in data.test_rows_T}
    train = {data.manifest.group[row] for row in (*data.labeled_rows_M, *data.unlabeled_rows_N)}
    found = check(root=place.root, prepared=place.prepared, split=mixed.name)
    shared = next(finding for finding in found if finding.kind == "shared group")
    assert set(shared.names) == train & test


@pytest.mark.skipif(not LIPS.is_dir(), reason=f"{LIPS} is not there")
def test_real_clips_of_unseen_speakers(place: Place) -> None:
    root = place.folder / "lips"
    for name in ("05_next", "10_web"):
        (root / name).mkdir(parents=True)
        for path in sorted((LIPS / name).glob("*_0[12].mp4")):
            (root / name / path.name).symlink_to(path)
    report = place.prepare(root=root, group_regex="^([^_]+)_", decoder=None, size=48, num_segments=8, workers=2)
    assert (report.num_clips, report.quarantined) == (60, [])
    data = place.open()
    assert {data.manifest[row].group for row in data.test_rows_T} == {"F01", "F05", "F08", "F11", "M04"}
    assert data.clips.shape == (60, 8, 48, 48, 3)
    assert all(clip.fps == 15.0 and clip.nframes in range(4, 23) for clip in data.manifest)
    assert data.clips.read(np.arange(60, dtype=np.int32)).std(axis=(1, 2, 3, 4)).min() > 5
