"""What a run came to, in numbers: read from its store alone, at its end or at any time before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aplt.common.artifacts import LabelVersion
from aplt.common.config import BaseRunConfig, Head
from aplt.common.data.prepared import PreparedData
from aplt.common.drawing import printable
from aplt.common.manifest import ArtifactManifest
from aplt.common.schedule import Schedule
from aplt.common.service import ROLES, read_spans
from aplt.common.store import ArtifactStore
from aplt.labeler.pictures import percent
from aplt.labeler.timeline import Span, duration

HEADS = ("prototypes", "prototypes_before", "head")
LABELLING = ("extract", "cluster")

Summary = dict[str, Any]
"""What summary.json holds."""


@dataclass(frozen=True, kw_only=True)
class History:
    """Everything that a report needs of a run's past."""

    run: str
    plan: Schedule
    created_at: str | None
    scalars: dict[int, dict[str, float]]
    """Scalars of the evaluations by epoch."""
    labels: dict[int, ArtifactManifest]
    """Manifests of the label versions."""
    newest: LabelVersion | None
    spans: dict[str, list[Span]]
    """By role, in order."""

    @classmethod
    def read(cls, store: ArtifactStore, plan: Schedule) -> History:
        """Return the past of the run in `store`."""
        versions = store.labels.versions()
        return cls(
            run=store.run,
            plan=plan,
            created_at=store.read_note("run.json").get("created_at"),
            scalars={epoch: store.evaluations.load(epoch).scalars for epoch in store.evaluations.versions()},
            labels={version: store.labels.manifest(version) for version in versions},
            newest=store.labels.load(versions[-1]) if versions else None,
            spans={role: _spans_of({"spans": read_spans(store, role)}) for role in ROLES},
        )

    def series(self, name: str) -> dict[int, float]:
        """Return one scalar by epoch, where it is known."""
        return {epoch: scalars[name] for epoch, scalars in self.scalars.items() if name in scalars}

    def seconds(self, role: str, *names: str) -> float:
        """Return how long a role did any of these things."""
        return sum(span.seconds for span in self.spans[role] if span.what in names)

    @property
    def made(self) -> dict[int, Span]:
        """The stretch of time in which each label version was made, where it is known."""
        made = {}
        for version, manifest in self.labels.items():
            spans = [span for span in _spans_of(manifest.summary) if span.what in LABELLING]
            if spans:
                start = min(span.start for span in spans)
                made[version] = Span("labels", start, max(span.end for span in spans) - start)
        return made


def summarize(history: History, config: BaseRunConfig, data: PreparedData) -> Summary:
    """Return what summary.json holds, but for the pictures."""
    last = max(history.scalars, default=None)
    final = {} if last is None else history.scalars[last]
    labels = [_describe_labels(history, version) for version in sorted(history.labels)]
    trainer_s = sum(span.seconds for span in history.spans["trainer"])
    waiting_s = history.seconds("trainer", "wait")
    summary: Summary = {
        "run": history.run,
        "method": config.method.name,
        "tested_head": config.method.tested_head,
        "epochs": history.plan.total_epochs,
        "finished": history.plan.total_epochs in history.scalars,
        "final": {"epoch": last} | {head: _accuracies(final, head) for head in HEADS},
        "labels": labels,
        "seconds": {
            "wall": _wall_seconds(history),
            "training": history.seconds("trainer", "train"),
            "trainer_waiting": waiting_s,
            "labelling": sum(version["seconds"] or 0.0 for version in labels),
            "evaluating": history.seconds("labeler", "evaluate"),
        },
        "share_waited": waiting_s / trainer_s if trainer_s else None,
        "clips": {
            "labelled": len(data.labeled_rows_M),
            "unlabelled": len(data.unlabeled_rows_N),
            "test": len(data.test_rows_T),
        },
        "classes": [printable(name) for name in data.class_names],
        "final_by_class": [
            {"class": printable(name)} | {head: final.get(f"{head}/class_{c}") for head in HEADS}
            for c, name in enumerate(data.class_names)
        ],
    }
    return summary | {"where_next": _hints(summary, config, history)}


def _describe_labels(history: History, version: int) -> Summary:
    manifest = history.labels[version]
    epoch = int(str(manifest.scalars["epoch"]))
    judged = history.scalars.get(epoch, {})
    spans = [span for span in _spans_of(manifest.summary) if span.what in LABELLING]
    phase = next((phase for phase in history.plan.phases if phase.version == version), None)
    trains = phase is not None and phase.first_epoch <= phase.last_epoch
    return {
        "version": version,
        "from_epoch": epoch,
        "trains_epochs": [phase.first_epoch, phase.last_epoch] if phase is not None and trains else None,
        "clips": manifest.summary.get("clips"),
        "kept_share": manifest.summary.get("kept_share"),
        "ratio": manifest.scalars["ratio"],
        "precision": judged.get("labels/precision"),
        "accuracy_all": judged.get("labels/accuracy_all"),
        "seconds": sum(span.seconds for span in spans) if spans else None,
    }


def _accuracies(scalars: Mapping[str, float], head: str) -> dict[str, float] | None:
    if f"{head}/accuracy" not in scalars:
        return None
    return {"accuracy": scalars[f"{head}/accuracy"], "macro": scalars[f"{head}/macro"]}


def _wall_seconds(history: History) -> float | None:
    """Return the seconds from the run's creation to the end of the last thing that was done."""
    spans = [span for role in ROLES for span in history.spans[role]]
    if not spans:
        return None
    first = min(span.start for span in spans)
    start = first if history.created_at is None else datetime.fromisoformat(history.created_at).timestamp()
    return max(span.end for span in spans) - start


def _spans_of(value: Mapping[str, Any] | None) -> list[Span]:
    spans = [Span(str(s["what"]), float(s["start"]), float(s["seconds"])) for s in (value or {}).get("spans", [])]
    return sorted(spans, key=lambda span: span.start)


def _hints(summary: Summary, config: BaseRunConfig, history: History) -> list[str]:
    """Return what the numbers suggest to look at next; every hint names the number that it rests on."""
    hints = []
    final, labels = summary["final"], summary["labels"]
    if not summary["finished"]:
        hints.append(f"The run is not finished: evaluated up to epoch {final['epoch'] or 0} of {summary['epochs']}.")
    if summary["clips"]["test"] == 0 or all(final[head] is None for head in HEADS):
        hints.append("No test clip has a known class, so there is no accuracy; list known classes in the label table.")
    if weakest := _weakest_class(summary["final_by_class"], summary["tested_head"]):
        name, head, accuracy = weakest
        hints.append(f"The weakest class is {name}: {percent(accuracy)} of its test clips are right ({_HEAD[head]}).")
    before, after = final["prototypes_before"], final["prototypes"]
    if summary["tested_head"] == "prototypes" and before and after and before["accuracy"] - after["accuracy"] > 0.01:
        loss = 100 * (before["accuracy"] - after["accuracy"])
        hints.append(f"The last prototypes are {loss:.1f} points worse than those before; compare the two versions.")
    newest = labels[-1] if labels else {"precision": None, "kept_share": None}
    kept_share = newest["kept_share"]
    if newest["precision"] is not None and newest["precision"] <= newest["accuracy_all"] and kept_share != 1:
        hints.append("Kept pseudo-labels are no more often right than all: distance does not tell good from bad here.")
    if kept_share is not None and kept_share < 0.2:
        advice = "a lower method.tau" if config.labeler.strategy == "parametric" else "labeler.sat_scale above 1"
        hints.append(f"Only {percent(kept_share)} of the clips are kept; {advice} keeps more.")
    if history.newest is not None:
        idle = [summary["classes"][c] for c in range(len(summary["classes"])) if not _kept_any(history.newest, c)]
        if idle:
            hints.append(f"No pseudo-label is kept for {_enumerate(idle)}.")
    if (share := summary["share_waited"]) is not None and share > 0.05:
        waited = duration(summary["seconds"]["trainer_waiting"])
        advice = "schedule.lead_epochs: 1 hides it" if history.plan.lead_epochs == 0 else "labelling outlasts an epoch"
        hints.append(f"The trainer waited {waited} for labels ({percent(share)} of its time); {advice}.")
    return hints


_HEAD = {"prototypes": "prototypes", "head": "parametric head"}


def _weakest_class(rows: Sequence[Mapping[str, Any]], tested: Head) -> tuple[str, str, float] | None:
    for head in sorted(_HEAD, key=lambda head: head != tested):
        known = [(row[head], row["class"]) for row in rows if row[head] is not None]
        if len(known) > 1:
            accuracy, name = min(known)
            return name, head, accuracy
    return None


def _kept_any(labels: LabelVersion, label: int) -> bool:
    return bool((labels.kept_N & (labels.labels_N == label)).any())


def _enumerate(names: Sequence[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more classes" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
