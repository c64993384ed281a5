"""Preparing whole directories, with a decoder that paints instead of reading, and once with real files."""

from __future__ import annotations

import csv
import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aplt.common.data.check import check
from aplt.common.data.frames import Frames, FrameSpec, Job
from aplt.common.data.manifest import read_manifest
from aplt.common.data.prepare import PrepareProgress, PrepareReport, prepare
from aplt.common.data.prepared import PreparedData, load_truth
from aplt.common.data.splits import LabeledRule, TestRule
from aplt.common.errors import DataError

LIPS = Path(__file__).parents[3] / "shared" / "data" / "lips"
SPEAKERS = ("s1", "s2", "s3", "s4")
Decoder = Callable[[Job, FrameSpec], Frames]

# Paints what the file says, or does what it says, and notes down what it was asked for.
PAINTER = """
import ctypes, fcntl, zlib
from pathlib import Path
import numpy as np
from aplt.common.data.frames import Frames
def paint(job, spec):
    path = Path(job.path)
    with (Path(__file__).parent / "asked.txt").open("a") as asked:
        asked.write(path.stem + "\\n")
    text = path.read_text()
    if text == "bad":
        raise RuntimeError("damaged")
    if text == "hang":
        ctypes.PyDLL(None).sleep(600)  # native code that keeps all other Python code from running
    shape = (spec.num_frames, spec.size, spec.size, 3)
    pixels = np.random.default_rng(zlib.crc32(text.encode())).integers(0, 255, shape)
    return Frames(pixels.astype(np.uint8), 29.97, 40, 64, 48)
alive = None
def paint_alive(job, spec):
    global alive
    if alive is None:
        alive = (Path(__file__).parent / "alive").open("w")
        fcntl.flock(alive, fcntl.LOCK_EX)
    return paint(job, spec)
"""

SETUP = """
import os, signal, sys
from pathlib import Path
here = Path(sys.argv[1])
sys.path.insert(0, str(here))
import painter
from aplt.common.data.prepare import prepare
from aplt.common.data.splits import LabeledRule, TestRule
def run(decoder, progress=None):
    return prepare(
        root=here / "root", prepared=here / "prepared", adapter="folder", labels=None, group_regex="^(s.)_",
        test=TestRule(rule="group"), labeled=LabeledRule(ratio=0.25), seed=0, num_segments=2, frames_per_segment=1,
        size=8, fit="crop", workers=1, timeout_s=30.0, max_bad_share=0.1, progress=progress, decoder=decoder)
"""


class Place:
    """A data set of 2 classes x 4 speakers x 3 clips under a temporary folder."""

    def __init__(self, folder: Path, decoder: Decoder) -> None:
        self.folder, self.root, self.prepared, self.decoder = folder, folder / "root", folder / "prepared", decoder
        for name in ("nod é", "wave [x]"):
            for speaker in SPEAKERS:
                for repeat in range(3):
                    self.write(f"{name}/{speaker}_{repeat}.mp4", f"{name} {speaker} {repeat}")

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def prepare(self, **changes: Any) -> PrepareReport:
        settings: dict[str, Any] = {
            "root": self.root,
            "prepared": self.prepared,
            "adapter": "folder",
            "labels": None,
            "group_regex": "^(s.)_",
            "test": TestRule(rule="group"),
            "labeled": LabeledRule(ratio=0.25),
            "seed": 0,
            "num_segments": 2,
            "frames_per_segment": 1,
            "size": 8,
            "fit": "crop",
            "workers": 1,
            "timeout_s": 30.0,
            "max_bad_share": 0.1,
            "decoder": self.decoder,
        }
        return prepare(**(settings | changes))

    def asked(self) -> list[str]:
        return (self.folder / "asked.txt").read_text().split()

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.prepared / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    (tmp_path / "painter.py").write_text(PAINTER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "painter", raising=False)
    import painter  # type: ignore[import-not-found]

    return Place(tmp_path, painter.paint)


def test_what_is_prepared_is_what_is_read(place: Place) -> None:
    steps: list[PrepareProgress] = []
    report = place.prepare(progress=steps.append)
    # s1 and s4, every third, are for testing; of the 6 clips per class left floor(0.25 * 6 + 0.5) = 2 are labelled.
    assert (report.num_clips, report.num_train, report.num_test) == (24, 12, 12)
    assert (report.num_labeled, report.num_unlabeled, report.decoded_now) == (4, 8, 24)
    assert report.class_counts == {"nod é": 12, "wave [x]": 12}
    assert report.quarantined == []
    assert steps[0] == PrepareProgress("scanning", 0, 0)
    assert steps[1:] == [PrepareProgress("decoding", done, 24) for done in range(25)]

    data = PreparedData.open(place.prepared)
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
    PreparedData.open(place.prepared)
    assert "label" not in place.table("manifest.csv")[0]
    shown = {row["clip_id"] for row in place.table("split/labeled.csv")}
    hidden = set((place.prepared / "split" / "unlabeled.txt").read_text().split("\n"))
    assert len(shown) == 4
    assert not shown & hidden
    split = json.loads((place.prepared / "split" / "split.json").read_text())
    assert (split["labeled"], split["seed"], split["pool"]) == ({"rule": "per_class", "ratio": 0.25}, 0, 12)


def test_a_second_call_does_nothing_and_a_changed_rule_decodes_nothing(place: Place) -> None:
    place.prepare()
    first = PreparedData.open(place.prepared)
    times = {path: path.stat().st_mtime_ns for path in place.prepared.rglob("*.json")}
    assert place.prepare().decoded_now == 0
    assert {path: path.stat().st_mtime_ns for path in place.prepared.rglob("*.json")} == times
    report = place.prepare(labeled=LabeledRule(ratio=0.5), test=TestRule(every=2))
    assert (report.decoded_now, report.num_labeled, report.num_test) == (0, 6, 12)
    assert len(PreparedData.open(place.prepared).labeled_rows_M) == 6
    assert PreparedData.open(place.prepared).digest != first.digest
    place.prepare()
    assert PreparedData.open(place.prepared).digest == first.digest


def test_new_and_changed_clips_alone_are_decoded(place: Place) -> None:
    place.prepare()
    place.write("wave [x]/s2_9.mp4", "new")
    place.write("nod é/s1_0.mp4", "another text")
    (place.root / "nod é" / "s1_1.mp4").unlink()
    assert place.prepare().decoded_now == 2
    data = PreparedData.open(place.prepared)
    assert len(data.manifest) == 24
    assert len(list((place.prepared / "cache").iterdir())) == 1
    assert place.prepare(size=12).decoded_now == 24
    assert PreparedData.open(place.prepared).clips.size == 12


def test_bad_clips_are_in_quarantine_and_nowhere_else(place: Place) -> None:
    place.write("nod é/s1_0.mp4", "bad")
    place.write("wave [x]/s2_1.mp4", "bad")
    report = place.prepare()
    assert report.quarantined == [("nod é/s1_0", "damaged"), ("wave [x]/s2_1", "damaged")]
    assert (report.num_clips, report.num_train, report.num_test, report.decoded_now) == (24, 11, 11, 22)
    assert place.table("quarantine.csv")[0] == {"clip_id": "nod é/s1_0", "reason": "damaged"}
    data = PreparedData.open(place.prepared)
    used = {*data.labeled_rows_M.tolist(), *data.unlabeled_rows_N.tolist(), *data.test_rows_T.tolist()}
    assert {row for row in range(24) if data.manifest[row].clip_id in dict(report.quarantined)} == set(range(24)) - used
    assert read_manifest(place.prepared / "manifest.csv")[0].nframes is None
    again = place.prepare()
    assert (again.decoded_now, again.quarantined) == (0, report.quarantined)
    assert len(place.asked()) == 24
    place.write("nod é/s1_0.mp4", "repaired")
    assert [clip_id for clip_id, _ in place.prepare().quarantined] == ["wave [x]/s2_1"]


def test_a_clip_that_hangs_is_tried_again_with_more_time_only(place: Place) -> None:
    place.write("nod é/s1_0.mp4", "hang")
    report = place.prepare(timeout_s=0.3)
    assert report.quarantined == [("nod é/s1_0", "decoding took longer than 0.3 s")]
    assert place.prepare(timeout_s=0.3).decoded_now == 0
    assert place.asked().count("s1_0") == 2  # one of each class
    assert place.prepare(timeout_s=0.4).quarantined == [("nod é/s1_0", "decoding took longer than 0.4 s")]


def test_too_many_bad_clips_stop_early_and_what_was_decoded_is_kept(place: Place) -> None:
    for repeat in range(3):
        place.write(f"nod é/s2_{repeat}.mp4", "bad")
    with pytest.raises(DataError, match=r"3 of 24 clips .*max_bad_share 0.1 .*nod é/s2_0: damaged.*quarantine.csv"):
        place.prepare()
    assert len(place.table("quarantine.csv")) == 3
    asked = len(place.asked())
    assert asked in (6, 7)  # the worker may have begun the next one
    with pytest.raises(DataError, match="holds no prepared data"):
        PreparedData.open(place.prepared)
    with pytest.raises(DataError, match="3 of 24"):
        place.prepare()
    assert len(place.asked()) == asked
    place.write("nod é/s2_2.mp4", "mended")
    report = place.prepare()
    assert (len(report.quarantined), report.decoded_now) == (2, 24 - 3 - 2)
    place.write("nod é/s2_2.mp4", "bad")
    assert len(place.prepare(max_bad_share=0.2).quarantined) == 3


def test_a_class_whose_labelled_clips_are_all_bad_is_an_error(place: Place) -> None:
    for path in (place.root / "nod é").iterdir():
        path.write_text("bad")
    with pytest.raises(
        DataError, match=r"1 of 2 classes have no labelled training clip that can be decoded, see .*nod"
    ):
        place.prepare(max_bad_share=1.0)
    assert len(place.table("quarantine.csv")) == 12


def test_a_table_with_its_own_split_and_unlabelled_clips(place: Place) -> None:
    rows = [f"wave [x]/s1_{i}.mp4,wave,train" for i in range(3)] + [f"nod é/s1_{i}.mp4,nod,test" for i in range(2)]
    rows += ["nod é/s2_0.mp4,nod,train", "nod é/s2_1.mp4,,train", "wave [x]/s4_0.mp4,,test"]
    labels = place.folder / "labels.csv"
    labels.write_text("\n".join(["path,label,split", *rows]), encoding="utf-8")
    report = place.prepare(adapter="csv", labels=labels, test=TestRule(rule="given"), labeled=LabeledRule(rule="given"))
    assert (report.num_labeled, report.num_unlabeled, report.num_test) == (4, 1, 3)
    data = PreparedData.open(place.prepared)
    assert [data.manifest[row].clip_id for row in data.unlabeled_rows_N] == ["nod é/s2_1"]
    assert load_truth(place.prepared).tolist() == [0, 0, 0, -1, 1, 1, 1, -1]


def test_files_changed_by_hand_are_noticed_and_mended(place: Place) -> None:
    place.prepare()
    path = place.prepared / "split" / "labeled.csv"
    before = path.read_text()
    path.write_text(before.replace("wave", "nod"))
    with pytest.raises(DataError, match=r"labeled.csv was changed by hand"):
        PreparedData.open(place.prepared)
    assert place.prepare().decoded_now == 0
    assert path.read_text() == before
    PreparedData.open(place.prepared)


def test_damaged_descriptions_are_told_and_mended(place: Place) -> None:
    """prepared.json and cache.json say what the other files are: without them all is checked, and nothing decoded."""
    place.prepare()
    digest = PreparedData.open(place.prepared).digest
    (cache,) = place.prepared.glob("cache/*/cache.json")
    for path, damaged in (
        (place.prepared / "prepared.json", "{"),
        (place.prepared / "prepared.json", '{"digest": "", "files": {}, "cache": "../../elsewhere"}'),
        (cache, "{"),
        (cache, "[]"),
    ):
        path.write_text(damaged)
        with pytest.raises(DataError, match="`aplt data prepare CONFIG`"):
            PreparedData.open(place.prepared)
        assert place.prepare().decoded_now == 0
        assert PreparedData.open(place.prepared).digest == digest


def test_places_that_cannot_be_used_are_data_errors(place: Place) -> None:
    with pytest.raises(DataError, match="run `aplt data prepare"):
        PreparedData.open(place.prepared)
    with pytest.raises(DataError, match=r"lies inside data\.root"):
        place.prepare(prepared=place.root / "prepared")
    with pytest.raises(DataError, match=r"needs data\.labels"):
        place.prepare(adapter="csv")
    place.write("file", "")
    with pytest.raises(DataError, match="cannot be written"):
        place.prepare(root=place.root / "wave [x]", prepared=place.root / "file" / "prepared")


def test_a_killed_call_goes_on_where_it_stopped_and_its_workers_end(place: Place) -> None:
    killed = SETUP + (
        "if __name__ == '__main__':\n"
        "    run(painter.paint_alive, lambda p: p.done == 7 and os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    (place.folder / "killed.py").write_text(killed)
    process = subprocess.run([sys.executable, "killed.py", str(place.folder)], cwd=place.folder, check=False)
    assert process.returncode == -9
    with (place.folder / "alive").open() as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)  # the worker held it as long as it lived
    assert place.prepare().decoded_now == 24 - 7
    assert len(PreparedData.open(place.prepared).test_rows_T) == 12


def test_a_worker_that_hangs_ends_with_its_parent(place: Place) -> None:
    place.write("nod é/s1_0.mp4", "hang")
    (place.folder / "killed.py").write_text(SETUP + "run(painter.paint_alive)\n")
    process = subprocess.Popen([sys.executable, "killed.py", str(place.folder)], cwd=place.folder)
    deadline = time.monotonic() + 120
    while not (place.folder / "asked.txt").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    killed = time.monotonic()
    process.kill()
    process.wait()
    with (place.folder / "alive").open() as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
    assert time.monotonic() - killed < 20  # the deadline of the clip is 30 s


def test_two_processes_share_the_work_of_one(place: Place) -> None:
    (place.folder / "one.py").write_text(SETUP + "if __name__ == '__main__': print(run(painter.paint).decoded_now)\n")
    command = [sys.executable, "one.py", str(place.folder)]
    processes = [subprocess.Popen(command, cwd=place.folder, stdout=subprocess.PIPE) for _ in range(2)]
    assert sorted(int(process.communicate()[0]) for process in processes) == [0, 24]
    assert len(place.asked()) == 24


def test_check_finds_what_training_would_not_notice(place: Place) -> None:
    place.write("nod é/s1_0.mp4", "same")
    place.write("nod é/s2_0.mp4", "same")
    place.write("nod é/s2_1.mp4", "bad")
    place.write("wave [x]/s1_1.mp4", "twin")
    place.write("wave [x]/s1_2.mp4", "twin")
    place.prepare(labeled=LabeledRule(ratio=0.1))
    (place.root / "wave [x]" / "s3_0.mp4").unlink()
    folder = next((place.prepared / "cache").iterdir())
    pixels = np.load(folder / "clips.npy", mmap_mode="r+")
    pixels[5] ^= 1
    pixels.flush()
    findings = check(root=place.root, prepared=place.prepared)
    assert {finding.kind: finding.names for finding in findings} == {
        "damaged": ("nod é/s2_2",),
        "missing": ("wave [x]/s3_0",),
        "quarantined": ("nod é/s2_1",),
        "leak": ("nod é/s1_0", "nod é/s2_0"),
        "duplicate": ("wave [x]/s1_1", "wave [x]/s1_2"),
        "few labels": ("nod é", "wave [x]"),
    }
    assert [finding.severity for finding in findings] == ["error"] + ["warning"] * 5
    place.prepare(test=TestRule(rule="random"))
    manifest = PreparedData.open(place.prepared).manifest
    train, test = ({clip.group for clip in manifest if clip.split == split} for split in ("train", "test"))
    shared = next(found for found in check(root=place.root, prepared=place.prepared) if found.kind == "shared group")
    assert set(shared.names) == train & test


@pytest.mark.skipif(not LIPS.is_dir(), reason=f"{LIPS} is not there")
def test_real_clips_of_unseen_speakers(place: Place) -> None:
    root = place.folder / "lips"
    for name in ("05_next", "10_web"):
        (root / name).mkdir(parents=True)
        for path in sorted((LIPS / name).glob("*_0[12].mp4")):
            (root / name / path.name).symlink_to(path)
    report = place.prepare(root=root, group_regex="^([^_]+)_", decoder=None, size=48, num_segments=8, workers=2)
    assert (report.num_clips, report.num_test, report.quarantined) == (60, 20, [])
    data = PreparedData.open(place.prepared)
    assert {data.manifest[row].group for row in data.test_rows_T} == {"F01", "F05", "F08", "F11", "M04"}
    assert data.clips.shape == (60, 8, 48, 48, 3)
    assert all(clip.fps == 15.0 and clip.nframes in range(4, 23) for clip in data.manifest)
    assert data.clips.read(np.arange(60, dtype=np.int32)).std(axis=(1, 2, 3, 4)).min() > 5
