"""Preparing clips that are bad, calls that end early, and files that were damaged since."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time

import pytest
from painted_clips import RULES, SETUP, Place, sizes

from aplt.common.data.manifest import read_manifest
from aplt.common.errors import DataError


def test_bad_clips_are_in_quarantine_and_nowhere_else(place: Place) -> None:
    place.write("nod é/s1_0.mp4", "bad")
    place.write("wave [x]/s2_1.mp4", "bad")
    report = place.prepare()
    assert report.quarantined == [("nod é/s1_0", "damaged"), ("wave [x]/s2_1", "damaged")]
    assert (report.num_clips, report.decoded_now) == (24, 22)
    assert sum(sizes(place.open())) == 22
    assert place.table("quarantine.csv")[0] == {"clip_id": "nod é/s1_0", "reason": "damaged"}
    data = place.open()
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
        place.open()
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


def test_files_changed_by_hand_are_noticed_and_mended(place: Place) -> None:
    place.prepare()
    path = place.prepared / "splits" / RULES.name / "labeled.csv"
    before = path.read_text()
    path.write_text(before.replace("wave", "nod"))
    with pytest.raises(DataError, match=r"labeled.csv was changed by hand"):
        place.open()
    assert place.prepare().decoded_now == 0
    assert path.read_text() == before
    place.open()


def test_damaged_descriptions_are_told_and_mended(place: Place) -> None:
    """prepared.json and cache.json say what the other files are: without them all is checked, and nothing decoded."""
    place.prepare()
    digest = place.open().digest
    (cache,) = place.prepared.glob("cache/*/cache.json")
    for path, damaged in (
        (place.prepared / "prepared.json", "{"),
        (place.prepared / "prepared.json", '{"digest": "", "files": {}, "pool": "", "cache": "../../elsewhere"}'),
        (place.prepared / "prepared.json", '{"digest": "", "files": {}, "cache": "0a"}'),  # as before there were pools
        (cache, "{"),
        (cache, "[]"),
    ):
        path.write_text(damaged)
        with pytest.raises(DataError, match="`aplt data prepare"):
            place.open()
        assert place.prepare().decoded_now == 0
        assert place.open().digest == digest


def test_places_that_cannot_be_used_are_data_errors(place: Place) -> None:
    with pytest.raises(DataError, match="run `aplt data prepare"):
        place.open()
    with pytest.raises(DataError, match=r"lies inside data\.root"):
        place.prepare(prepared=place.root / "prepared")
    (place.folder / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        place.prepare(prepared=place.folder / "file" / "prepared")


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
    assert len(place.open().test_rows_T) == 12


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
