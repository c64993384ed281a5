"""The report of a run: summary and pictures, written into the run's folder `report/` in the store."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aplt.common.config import BaseRunConfig
from aplt.common.data.prepared import PreparedData, load_truth
from aplt.common.drawing import printable
from aplt.common.draws import centre_frames
from aplt.common.store import ArtifactStore
from aplt.labeler.contact_sheets import contact_sheet
from aplt.labeler.pictures import accuracy_picture, percent, pseudo_label_picture
from aplt.labeler.summary import History, Summary, summarize
from aplt.labeler.timeline import duration, timeline_picture

FOLDER = "report"
UNKNOWN = "–"


@dataclass(frozen=True)
class Table:
    """A table of the summary as plain text; the first column holds names, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def write_report(store: ArtifactStore, config: BaseRunConfig, data: PreparedData) -> Summary:
    """Write summary.json, summary.md and the pictures of the run in `store`; returns the summary.

    What is not there (label versions, known classes of test clips, time spans) is left out, so a run that is not
    finished has a report too.
    """
    history = History.read(store, config.plan())
    summary = summarize(history, config, data)
    names = _write_charts(store, history, summary) + _write_sheets(
        store, history, summary, data, load_truth(config.data.folder)
    )
    summary["pictures"] = names
    if any(name.startswith("classes/") for name in names):
        summary["where_next"].append(f"{FOLDER}/classes shows which clips got which pseudo-label, and how surely.")
    store.write_bytes(f"{FOLDER}/summary.md", _markdown(summary).encode())
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    store.write_bytes(f"{FOLDER}/summary.json", text.encode())
    return summary


def summary_rows(summary: Summary) -> list[Table]:
    """Return the summary as tables for people: accuracies, label versions, time and clips."""
    tables = []
    final, seconds, clips = summary["final"], summary["seconds"], summary["clips"]
    names = {"prototypes": "prototypes", "prototypes_before": "prototypes before the last", "head": "parametric head"}
    heads = [
        (name, _share(final[head]["accuracy"]), _share(final[head]["macro"]))
        for head, name in sorted(names.items(), key=lambda item: item[0] != summary.get("tested_head"))
        if final[head] is not None
    ]
    if heads:
        tables.append(
            Table(f"Test clips after epoch {final['epoch']}", ("", "accuracy", "mean of classes"), tuple(heads))
        )
    if summary["labels"]:
        columns = ("labels", "made from", "train epochs", "kept", "r", "kept right", "all right", "made in")
        rows = [
            (
                f"v{labels['version']}",
                f"epoch {labels['from_epoch']}",
                "test only" if labels["trains_epochs"] is None else "{}–{}".format(*labels["trains_epochs"]),
                _share(labels["kept_share"]),
                f"{labels['ratio']:.3f}",
                _share(labels["precision"]),
                _share(labels["accuracy_all"]),
                _time(labels["seconds"]),
            )
            for labels in summary["labels"]
        ]
        tables.append(Table("Pseudo-labels", columns, tuple(rows)))
    times = [
        ("from start to end", _time(seconds["wall"])),
        ("training", _time(seconds["training"])),
        ("trainer waiting", f"{_time(seconds['trainer_waiting'])} ({_share(summary['share_waited'])} of its time)"),
        ("labelling", _time(seconds["labelling"])),
        ("evaluating", _time(seconds["evaluating"])),
    ]
    tables.append(Table("Time", ("", ""), tuple(times)))
    counts = [(name, f"{count:,}") for name, count in clips.items()]
    tables.append(Table("Clips", ("", ""), (*counts, ("classes", str(len(summary["classes"]))))))
    return tables


def _write_charts(store: ArtifactStore, history: History, summary: Summary) -> list[str]:
    """Write the charts for which there are numbers; returns their names."""
    plan, clips = history.plan, summary["clips"]
    about = f"run {summary['run']} · method {summary['method']} · {len(summary['classes'])} classes"
    pictures = {}
    head, prototypes = history.series("head/accuracy"), history.series("prototypes/accuracy")
    if head or prototypes:
        before = summary["final"]["prototypes_before"]
        pictures["accuracy.png"] = accuracy_picture(
            subtitle=f"{about} · {clips['labelled']:,} labelled clips · {clips['test']:,} test clips",
            head=head,
            prototypes=prototypes,
            prototypes_before=before["accuracy"] if before else None,
            starts={
                phase.version: phase.first_epoch for phase in plan.phases if phase.first_epoch <= plan.total_epochs
            },
            num_classes=len(summary["classes"]),
            total_epochs=plan.total_epochs,
        )
    online_share = history.series("online/passed_share")
    if summary["labels"] or online_share:
        pictures["pseudo_labels.png"] = pseudo_label_picture(
            subtitle=f"{about} · {clips['unlabelled']:,} unlabelled clips",
            precision=_by_epoch(summary, "precision"),
            accuracy_all=_by_epoch(summary, "accuracy_all"),
            kept_share=_by_epoch(summary, "kept_share"),
            ratio=_by_epoch(summary, "ratio"),
            online_precision=history.series("online/precision"),
            online_share=online_share,
            made={labels["version"]: labels["from_epoch"] for labels in summary["labels"]},
            total_epochs=plan.total_epochs,
        )
    if any(history.spans.values()):
        ahead = {0: "labels at each boundary", 1: "labels made one epoch ahead"}[plan.lead_epochs]
        pictures["timeline.png"] = timeline_picture(
            subtitle=f"{about} · {plan.total_epochs} epochs" + (f" · {ahead}" if history.labels else ""),
            spans=history.spans,
            made=history.made,
            num_epochs=max(history.scalars, default=0),
        )
    for name, png in pictures.items():
        store.write_bytes(f"{FOLDER}/{name}", png)
    return list(pictures)


def _write_sheets(
    store: ArtifactStore, history: History, summary: Summary, data: PreparedData, truth: NDArray[np.int16]
) -> list[str]:
    """Write a contact sheet of the newest label version for every class; returns their names."""
    labels = history.newest
    if labels is None:
        return []

    def read(rows_B: NDArray[np.int32]) -> NDArray[np.uint8]:
        clips = data.clips
        frames_BT = centre_frames(
            len(rows_B), num_segments=clips.num_segments, frames_per_segment=clips.frames_per_segment
        )
        return clips.read(rows_B)[np.arange(len(rows_B))[:, None], frames_BT]

    names = []
    for c, class_name in enumerate(data.class_names):
        name = f"classes/{c:02d}_{_file_name(class_name)}.png"
        png = contact_sheet(
            labels,
            c,
            subtitle=f"run {summary['run']} · newest labels, made from epoch {labels.epoch}",
            class_names=tuple(summary["classes"]),
            clip_ids=tuple(data.manifest.clip_id),
            truth=truth,
            read=read,
        )
        store.write_bytes(f"{FOLDER}/{name}", png)
        names.append(name)
    return names


def _markdown(summary: Summary) -> str:
    """Return the summary as a Markdown text."""
    state = "" if summary["finished"] else " (not finished)"
    lines = [f"# Run {summary['run']}: {summary['method']}, {summary['epochs']} epochs{state}"]
    for table in summary_rows(summary):
        lines += ["", f"## {table.title}", "", _markdown_row(table.columns)]
        lines += [_markdown_row(["---", *["---:"] * (len(table.columns) - 1)])]
        lines += [_markdown_row(row) for row in table.rows]
    if summary["where_next"]:
        lines += ["", "## Where to look next", "", *(f"- {hint}" for hint in summary["where_next"])]
    if summary["pictures"]:
        lines += ["", "## Pictures", "", *(f"![{name}]({name})" for name in summary["pictures"])]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _by_epoch(summary: Summary, key: str) -> dict[int, float]:
    return {labels["from_epoch"]: labels[key] for labels in summary["labels"] if labels[key] is not None}


def _file_name(class_name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", printable(class_name))[:80]


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else percent(value)


def _time(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else duration(seconds)
