"""From what was seen in a folder of clips to a first configuration file that explains itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import yaml

from aplt.common.config import DataConfig
from aplt.common.data.mirrored import is_sided
from aplt.deploy.survey import Survey

TEMPLATE = Path(__file__).with_name("template.yaml")
COMMENT_COLUMN = 36  # the template has a tab before each comment
MANY_GROUPS = 20
SMALL = 200  # pixels


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The settings that depend on the clips and on the machine."""

    model: str
    clip_size: int
    crop_size: int
    frames_per_segment: int
    fit: str
    flip: bool
    lr: float
    precision: str
    workers: int
    trainer_threads: int
    labeler_threads: int
    trainer_cpus: float
    labeler_cpus: float
    trainer_gpus: float
    labeler_gpus: float
    test_rule: str
    test_every: int
    labeled_rule: str


def propose(survey: Survey) -> Proposal:
    """Return settings that suit these clips and this machine."""
    num_gpus, cores = len(survey.gpus), survey.num_cores
    labeler_threads = max(1, cores // 4)
    trainer_threads = max(1, cores - labeler_threads)
    if not num_gpus:
        model, clip_size, crop_size = "tiny_tsm", 64, 56
    elif survey.short_side < SMALL:
        model, clip_size, crop_size = "tsm_resnet18", 128, 112
    else:
        model, clip_size, crop_size = "tsm_resnet18", 256, 224
    parts = any(clip.split in ("val", "test") for clip in survey.clips)
    return Proposal(
        model=model,
        clip_size=clip_size,
        crop_size=crop_size,
        frames_per_segment=2 if sorted(survey.lengths)[len(survey.lengths) // 2] >= 16 else 1,
        # Small movements may lie at the edge: on clips of 4:3 a square cut from the middle cost five points.
        fit="stretch",
        flip=not any(map(is_sided, survey.class_counts)),
        lr=0.03,
        precision="bf16" if num_gpus else "fp32",
        workers=cores,
        trainer_threads=trainer_threads,
        labeler_threads=labeler_threads,
        trainer_cpus=trainer_threads if cores > 1 else 0.5,
        labeler_cpus=labeler_threads if cores > 1 else 0.5,
        trainer_gpus=min(1.0, num_gpus / 2),
        labeler_gpus=min(1.0, num_gpus / 2),
        test_rule="official" if parts else "group" if survey.groups else "random",
        test_every=3 if 0 < len(survey.groups) < MANY_GROUPS else 5,
        labeled_rule="all" if survey.num_unlabeled else "per_class",
    )


def data_proposal(survey: Survey) -> dict[str, Any]:
    """Return the settings of `data` that suit these clips on any machine, as dotted names.

    Clips are prepared once and for every network: the size does not depend on whether this machine has a GPU.
    """
    proposal, size = propose(survey), 128 if survey.short_side < SMALL else 256
    return {
        "clip_size": size,
        "crop_size": size * 7 // 8,
        "frames_per_segment": proposal.frames_per_segment,
        "fit": proposal.fit,
        "augment.flip": proposal.flip,
        "workers": proposal.workers,
        "group_regex": survey.group_regex,
        "test.rule": proposal.test_rule,
        "labeled.rule": proposal.labeled_rule,
    } | ({"test.every": proposal.test_every} if proposal.test_rule in ("group", "random") else {})


def config_text(survey: Survey, proposal: Proposal, *, run: str, root: str, labels: str | None) -> str:
    """Return the configuration file; `root` and `labels` are the paths to write into it."""
    values: Mapping[str, Any] = {
        name: f"{value:g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, bool) else value
        for name, value in vars(proposal).items()
    }
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        values,
        run=_quoted(run),
        prepared=_quoted(f"prepared/{run}"),
        root=_quoted(root),
        adapter=survey.adapter,
        subset="null" if survey.subset is None else _quoted(survey.subset),
        options=json.dumps(dict(survey.options)),
        labels="null" if labels is None else _quoted(labels),
        group_regex="null" if survey.group_regex is None else "'" + survey.group_regex.replace("'", "''") + "'",
        num_clips=len(survey.clips) + len(survey.not_in_table),
        num_classes=len(survey.class_counts),
        size="{} x {}".format(*sorted(survey.sizes)[len(survey.sizes) // 2]),
        test_comment=_SPLITS[proposal.test_rule],
    )
    return text.expandtabs(COMMENT_COLUMN)


def with_data(text: str, data: DataConfig) -> str:
    """Return a configuration file whose clips are those that are prepared already, with the settings of then."""
    section = yaml.safe_dump({"data": data.model_dump(mode="json")}, sort_keys=False, allow_unicode=True)
    return re.sub(r"(?ms)^data:\n.*?(?=^\S)", lambda _: f"# as it was prepared\n{section}\n", text)


def run_name_of(root: Path) -> str:
    """Return a run name made of the name of the folder with the clips."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).strip("-._")[:50]
    return name or "run"


_SPLITS = {
    "official": "the parts that the data set, or the table's split column, names",
    "group": "no subject is in both parts; test on every n-th subject in sorted order",
    "random": "test on every n-th clip of each class, in a shuffled order; names show no subjects to keep apart",
}


def _quoted(text: str) -> str:
    """Return text as YAML: as it is where that is safe, else in double quotes."""
    return text if re.fullmatch(r"[A-Za-z_/][A-Za-z0-9_./-]*", text) and text not in _WORDS else json.dumps(text)


_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
