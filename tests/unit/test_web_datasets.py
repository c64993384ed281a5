"""UCF101, HMDB51 and Kinetics-400."""

from __future__ import annotations

from pathlib import Path

import dataset_copies
import pytest

from aplt.common.data.datasets import read_source
from aplt.common.data.source import SourceClip
from aplt.common.errors import DataError


def test_ucf101_takes_the_class_from_the_folder(tmp_path: Path) -> None:
    source = read_source("ucf101", dataset_copies.ucf101(tmp_path, videos=False))
    assert source.clips[-1] == SourceClip(
        clip_id="v_HandStandPushups_g09_c01",
        video="UCF-101/HandstandPushups/v_HandStandPushups_g09_c01.avi",
        label="HandstandPushups",
        group="g09",
        split="train",
    )
    assert {(clip.group, clip.split) for clip in source.clips} == {
        *(("g01", "test"), ("g02", "test"), ("g08", "train"), ("g09", "train"))
    }
    names = [kind.name for kind in source.classes]
    assert (len(names), names.index("Hammering"), names.index("HammerThrow")) == (101, 34, 35)
    assert (names.index("JumpingJack"), names.index("JumpRope"), names.index("YoYo")) == (46, 47, 100)
    assert source.classes[36].original == "37"


def test_ucf101_finds_either_spelling_of_the_files(tmp_path: Path) -> None:
    root = dataset_copies.ucf101(tmp_path, videos=False)
    folder = root / "UCF-101/HandstandPushups"
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("HandStand", "Handstand"))
    folder.rename(root / "UCF-101/HandStandPushups")
    source = read_source("ucf101", root)
    assert not source.missing
    assert source.clips[-1].clip_id == "v_HandStandPushups_g09_c01"


def test_ucf101_takes_copies_with_another_ending(tmp_path: Path) -> None:
    root = dataset_copies.ucf101(tmp_path, videos=False)
    for path in list(root.rglob("*.avi")):
        path.rename(path.with_suffix(".mp4"))
    assert read_source("ucf101", root).clips[0].video == "UCF-101/Archery/v_Archery_g01_c01.mp4"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "trainlist01.txt",
            "Archery/v_Archery_g08_c01.avi 4\n",
            "line 1: .* with one of the 101 classes and its number",
        ),
        ("trainlist01.txt", "Archery/v_Archery_g08_c01.avi\n", "line 1: .* is not <Class>/<file> <number>"),
        ("testlist01.txt", "Arch/v_Archery_g08_c01.avi\n", "line 1: .* is not <Class>/<file> with"),
        ("testlist01.txt", "Archery/v_Archery_g08_c01.avi\n", "'v_Archery_g08_c01'"),
    ],
)
def test_lists_of_ucf101_with_a_fault_name_the_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    root = dataset_copies.ucf101(tmp_path, videos=False)
    dataset_copies.write(root / "ucfTrainTestlist" / name, text)
    with pytest.raises(DataError, match=message):
        read_source("ucf101", root)


def test_a_fold_needs_its_own_lists(tmp_path: Path) -> None:
    root = dataset_copies.ucf101(tmp_path / "ucf", videos=False)
    with pytest.raises(DataError, match=r"no trainlist02.txt lies below"):
        read_source("ucf101", root, options={"fold": 2})
    with pytest.raises(DataError, match="option fold of data set ucf101 is 4: Input should be 1, 2 or 3"):
        read_source("ucf101", root, options={"fold": 4})
    root = dataset_copies.hmdb51(tmp_path / "hmdb", videos=False)
    with pytest.raises(DataError, match=r"no <class>_test_split3.txt lies below"):
        read_source("hmdb51", root, options={"fold": 3})


def test_hmdb51_reads_names_with_any_characters(tmp_path: Path) -> None:
    root = dataset_copies.hmdb51(tmp_path, videos=False)
    source = read_source("hmdb51", root)
    assert [(clip.clip_id, clip.label, clip.split) for clip in source.clips[:2]] == [
        ("[a];b&c+0 d_brush_hair_u_nm_np1_ba_goo_0", "brush_hair", "train"),
        ("[a];b&c+0 d_wave_u_nm_np1_ba_goo_0", "wave", "train"),
    ]
    assert source.clips[0].video == "brush_hair/[a];b&c+0 d_brush_hair_u_nm_np1_ba_goo_0.avi"
    assert [clip.split for clip in source.clips].count("test") == 2
    assert source.notes[0].startswith("no part: 2 clips are left out, because split 1 uses them for neither part")
    assert len(source.classes) == 51


def test_hmdb51_can_train_with_every_clip_that_is_not_for_testing(tmp_path: Path) -> None:
    root = dataset_copies.hmdb51(tmp_path, videos=False)
    source = read_source("hmdb51", root, options={"pool": "all"})
    assert [clip.split for clip in source.clips].count("train") == 6
    assert source.notes == ()


def test_one_name_in_two_classes_of_hmdb51_is_two_clips(tmp_path: Path) -> None:
    root = dataset_copies.hmdb51(tmp_path, videos=False)
    for label in ("sword", "sword_exercise"):
        dataset_copies.write(root / f"{label}_test_split1.txt", "same_0.avi 1\n")
        dataset_copies.write(root / label / "same_0.avi", "")
    clips = [clip for clip in read_source("hmdb51", root).clips if clip.clip_id.endswith("same_0")]
    assert [(clip.clip_id, clip.video) for clip in clips] == [
        ("sword/same_0", "sword/same_0.avi"),
        ("sword_exercise/same_0", "sword_exercise/same_0.avi"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("wave", "x.avi 3\n", "line 1: 'x.avi 3' is not the name of a video and 0, 1 or 2"),
        ("wave", "x.avi\n", "line 1: 'x.avi' is not the name of a video"),
        ("waves", "x.avi 1\n", "is of class 'waves', which is none of the 51 of HMDB51"),
    ],
)
def test_lists_of_hmdb51_with_a_fault_are_data_errors(tmp_path: Path, name: str, text: str, message: str) -> None:
    root = dataset_copies.hmdb51(tmp_path, videos=False)
    dataset_copies.write(root / f"{name}_test_split1.txt", text)
    (root / "testTrainMulti_7030_splits/wave_test_split1.txt").unlink()
    with pytest.raises(DataError, match=message):
        read_source("hmdb51", root)


def test_kinetics_reads_tables(tmp_path: Path) -> None:
    source = read_source("kinetics400", dataset_copies.kinetics400(tmp_path, videos=False))
    assert source.clips[0] == SourceClip(
        clip_id="-abC_9x-0aZ_000084_000094",
        video="train/air drumming/-abC_9x-0aZ_000084_000094.mp4",
        label="air drumming",
        split="train",
    )
    assert [clip.split for clip in source.clips].count("val") == 2
    assert source.notes == ("test: 1 clips are left out, because their labels are not public",)
    assert [kind.number for kind in source.classes] == list(range(400))


def test_kinetics_reads_equal_rows_of_several_tables_once(tmp_path: Path) -> None:
    root = dataset_copies.kinetics400(tmp_path, videos=False)
    expected = read_source("kinetics400", root)
    text = (root / "annotations/train.csv").read_text()
    dataset_copies.write(root / "kinetics_train.csv", text.replace(",is_cc", "").replace("train,0", "train"))
    assert read_source("kinetics400", root) == expected


@pytest.mark.parametrize("underscores", [True, False])
def test_kinetics_without_tables_takes_the_folders_names(tmp_path: Path, underscores: bool) -> None:
    root = dataset_copies.kinetics400(tmp_path, table=False, underscores=underscores, videos=False)
    (root / "val").rename(root / "val_256")
    source = read_source("kinetics400", root)
    labels = {clip.clip_id: (clip.label, clip.split) for clip in source.clips}
    assert labels["-abC_9x-0aZ_000084_000094"] == ("air drumming", "train")
    assert labels["ccccccccccc_000120_000130"] == ("air drumming", "val")
    assert labels["eeeeeeeeeee_000030_000040"] == ("zumba", "test")
    assert source.notes == ("no table is there: parts and classes are those of the folders",)


def test_kinetics_finds_files_without_times_in_a_flat_folder_and_counts_vanished_ones(tmp_path: Path) -> None:
    root = dataset_copies.kinetics400(tmp_path, videos=False)
    (root / "train/zumba/_bbbbbbbbb0_000000_000010.mp4").rename(root / "_bbbbbbbbb0.mp4")
    (root / "val/zumba/ddddddddddd_000007_000017.mp4").unlink()
    source = read_source("kinetics400", root)
    assert [clip.video for clip in source.clips if clip.clip_id.startswith("_bbb")] == ["_bbbbbbbbb0.mp4"]
    assert source.missing == ("ddddddddddd_000007_000017",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dancing,aaaaaaaaaaa,1,11,train\n", "line 2: 'dancing' is none of the 400 classes"),
        (",aaaaaaaaaaa,1,11,train\n", "line 2: '' is none of the 400 classes"),
        ("zumba,aaaaaaaaaaa,1.5,11,train\n", "line 2: expected a youtube_id, times in whole seconds"),
        ("zumba,aaaaaaaaaaa,1\n", "line 2: expected a youtube_id, times in whole seconds"),
        ("zumba,AAAAAAAAAA1,3,13,val\n", "'AAAAAAAAAA1_000003_000013'"),
    ],
)
def test_tables_of_kinetics_with_a_fault_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    root = dataset_copies.kinetics400(tmp_path, videos=False)
    dataset_copies.write(root / "more.csv", f"label,youtube_id,time_start,time_end,split\n{text}")
    with pytest.raises(DataError, match=message):
        read_source("kinetics400", root)


def test_kinetics_needs_tables_or_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds neither a table of Kinetics-400"):
        read_source("kinetics400", tmp_path)
    dataset_copies.write(tmp_path / "notes.csv", "a,b\n1,2\n")
    dataset_copies.write(tmp_path / "zumba/x.mp4", "")
    with pytest.raises(DataError, match="without a table, videos must lie in <part>/<class name>/"):
        read_source("kinetics400", tmp_path)
