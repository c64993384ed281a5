"""The tables of the paper as rows of settings, and what was published for them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PUBLISHED = Path(__file__).with_name("published.csv")
REFERENCE = "fixmatch"
"""The row that every other one is compared with."""
APLT = "aplt"
APLT_PARTS = (
    *("labeler.strategy=sskm", "labeler.labeled_augmentation=true", "labeler.threshold=adaptive"),
    *("method.pseudo_labels=offline", "method.margin_view=strong", "method.classifier=prototypes"),
)
"""What the whole method is made of. Its ablations state all of it, each with what it changes."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table."""

    name: str
    """In file names and for --methods; rows of one name have the same settings in every table."""
    label: str
    method: str
    settings: tuple[str, ...] = ()
    """What makes it what it is called, as for --set, which it goes before; {total} stands for all epochs of the run."""
    published: str | None = None
    """What the paper calls it in this table; None for what the paper does not have here."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper."""

    name: str
    number: int
    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A number of the paper: accuracy in per cent."""

    table: int
    dataset: str
    backbone: str
    method: str
    ratio: float
    accuracy: float


def method_row(name: str, label: str, published: str | None = None) -> Row:
    """Return the row of a method with its own settings, which is the same run in every table."""
    settings = ("method.offline_labels=false", "labeler.strategy=sskm") if name == REFERENCE else ()
    return Row(name=name, label=label, method=name, settings=settings, published=published)


_SUPERVISED = method_row("supervised", "labelled clips only", "Baseline (Labeled Only)")
_APLT = method_row(APLT, "APLT", "APLT (Ours)")


def _ablation(name: str, label: str, published: str, *changed: str) -> Row:
    return Row(name=name, label=label, method=APLT, settings=(*APLT_PARTS, *changed), published=published)


_NO_COPIES = "labeler.augmented_prototypes=false"
_NO_THRESHOLD = "labeler.threshold=none"
_NO_AUGMENTATION = ("labeler.labeled_augmentation=false", _NO_COPIES)
_WEAK = "method.margin_view=weak"

TABLES = {
    table.name: table
    for table in (
        Table(
            name="table1",
            number=1,
            title="Semi-supervised methods",
            rows=(
                _SUPERVISED,
                method_row("pseudo_label", "Pseudo-Label", "Pseudolabel"),
                method_row("mean_teacher", "Mean Teacher", "Mean Teacher"),
                method_row("vat", "VAT", "VAT"),
                method_row("mixmatch", "MixMatch", "MixMatch"),
                method_row("uda", "UDA", "UDA"),
                method_row(REFERENCE, "FixMatch", "FixMatch"),
                method_row("flexmatch", "FlexMatch", "FlexMatch"),
                method_row("freematch", "FreeMatch", "FreeMatch"),
                method_row("softmatch", "SoftMatch", "SoftMatch"),
                method_row("infomatch", "InfoMatch", "InfoMatch"),
                method_row("finessl", "FineSSL", "FineSSL"),
                _APLT,
            ),
        ),
        Table(
            name="table2",
            number=2,
            title="Semi-supervised methods for videos",
            rows=(
                _SUPERVISED,
                method_row(REFERENCE, "FixMatch"),
                method_row("tcl", "TCL", "TCL"),
                method_row("ltg", "LTG", "LTG"),
                method_row("svformer", "SVFormer", "SVFormer"),
                _APLT,
            ),
        ),
        Table(
            name="table3",
            number=3,
            title="Parts of APLT",
            rows=(
                _SUPERVISED,
                method_row(REFERENCE, "FixMatch (SSL)", "SSL"),
                _ablation(
                    *("km", "+ k-means", "SSL + KM"),
                    *("labeler.strategy=kmeans", _NO_THRESHOLD, *_NO_AUGMENTATION, _WEAK),
                ),
                _ablation(
                    *("sskm-w", "+ semi-supervised k-means, weak view", "SSL + SSKM (W)"),
                    *(_NO_THRESHOLD, *_NO_AUGMENTATION, _WEAK),
                ),
                _ablation(
                    *("sskm-s", "+ semi-supervised k-means, strong view", "SSL + SSKM (S)"),
                    *(_NO_THRESHOLD, *_NO_AUGMENTATION),
                ),
                _ablation("sskm-s-la", "+ labelled augmentation", "SSL + SSKM(S) + LA", _NO_THRESHOLD),
                _ablation("sskm-s-sat", "+ self-adaptive thresholds", "SSL + SSKM(S) + SAT", *_NO_AUGMENTATION),
                method_row(APLT, "+ both: APLT", "SSL + SSKM(S) + LA + SAT"),
            ),
        ),
        Table(
            name="table4",
            number=4,
            title="Labels made in the step (SYN) and between phases (ASY)",
            rows=(
                method_row(REFERENCE, "FixMatch, SYN", "FixMatch (Baseline) [SYN]"),
                Row(
                    name="fixmatch-asy",
                    label="FixMatch, ASY",
                    method=REFERENCE,
                    settings=(
                        *("method.offline_labels=true", "labeler.strategy=parametric"),
                        *("labeler.threshold=adaptive", _NO_COPIES),
                    ),
                    published="FixMatch [ASY]",
                ),
                _ablation("aplt-syn", "APLT, SYN", "APLT (Ours) [SYN]", "method.pseudo_labels=online"),
                method_row(APLT, "APLT, ASY", "APLT (Ours) [ASY]"),
            ),
        ),
        Table(
            name="table5",
            number=5,
            title="The prototype classifier in training and test",
            rows=(
                method_row("supervised", "labelled clips only", "Baseline"),
                method_row(REFERENCE, "FixMatch"),
                _ablation(
                    *("variant-1", "offline labels train the parametric head (Variant I)", "Variant I of APLT"),
                    "method.classifier=parametric",
                ),
                _ablation(
                    *("variant-2", "prototypes for the test alone (Variant II)", "Variant II of APLT"),
                    *("schedule.warmup_epochs={total}", "schedule.epochs=0"),
                ),
                _APLT,
            ),
        ),
    )
}


@cache
def published() -> tuple[Published, ...]:
    """Return all numbers of the paper's tables."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        return tuple(
            Published(
                table=int(line["table"]),
                dataset=line["dataset"],
                backbone=line["backbone"],
                method=line["method"],
                ratio=float(line["labeled_ratio"]),
                accuracy=float(line["top1"]),
            )
            for line in csv.DictReader(file)
        )
