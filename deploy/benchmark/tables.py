"""A table of the paper from records: as numbers, as Markdown beside what was published, and as CSV. Per cent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aplt.common.data.manifest import csv_text as lines_text
from aplt.deploy.benchmark.records import Cell, Record, final_accuracy, find_record
from aplt.deploy.benchmark.rows import REFERENCE, TABLES, Published, Row, Table, method_row, published
from aplt.deploy.benchmark.statistics import Difference, Spread, paired_difference, spread
from aplt.deploy.display import duration

CellOf = Callable[[Row, float | None, int], Cell]
MISSING = "–"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row at one ratio, over the seeds that were run."""

    row: Row
    ratio: float | None
    accuracy: dict[int, float]
    """Of the tested classifier, by seed."""
    macro: dict[int, float]
    """The mean of the accuracies of the classes."""
    difference: Difference | None
    """To FixMatch over the same seeds; None for FixMatch itself."""
    wall_s: Spread | None
    clips_seen: int | None
    failures: dict[str, str]
    """By cell, why it failed."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A table with its numbers."""

    table: Table
    lines: tuple[Line, ...]
    records: tuple[Record, ...]
    num_cells: int
    said: tuple[str, ...]
    """What the command line said of the runs, as `name=value`."""


def outcome_of(
    table: Table,
    ratios: Sequence[float | None],
    seeds: Sequence[int],
    *,
    cell_of: CellOf,
    records: Sequence[Record],
    failure_of: Callable[[Cell], str | None],
    said: Sequence[str] = (),
) -> Outcome:
    """Return the numbers of a table from the records that there are.

    Args:
        table: Its rows.
        ratios: Per cent of labels.
        seeds: Of the runs.
        cell_of: Returns the cell of a row at a ratio with a seed.
        records: All records.
        failure_of: Returns why a cell failed, None if it did not.
        said: What the command line said of the runs, as `name=value`.
    """
    used: dict[str, Record] = {}
    lines = []
    for ratio in ratios:
        reference = _found(method_row(REFERENCE, REFERENCE), ratio, seeds, cell_of, records)[0]
        reference_accuracy = _shares(reference, "accuracy")
        for row in table.rows:
            found, left = _found(row, ratio, seeds, cell_of, records)
            accuracy = _shares(found, "accuracy")
            for seed, record in found.items():
                used[f"{record['row']}-{ratio}-{seed}"] = record
            lines.append(
                Line(
                    row=row,
                    ratio=ratio,
                    accuracy=accuracy,
                    macro=_shares(found, "macro"),
                    difference=None if row.name == REFERENCE else paired_difference(accuracy, reference_accuracy),
                    wall_s=spread([record["wall_s"] for record in found.values()]),
                    clips_seen=next((sum(record["clips_seen"].values()) for record in found.values()), None),
                    failures={cell.name: why for cell in left if (why := failure_of(cell)) is not None},
                )
            )
    num_cells = len(lines) * len(seeds)
    return Outcome(table=table, lines=tuple(lines), records=tuple(used.values()), num_cells=num_cells, said=tuple(said))


def markdown(outcome: Outcome) -> str:
    """Return the table as a page: what was run, the numbers beside the paper's, how to read them, what failed."""
    table, lines = outcome.table, outcome.lines
    done = sum(len(line.accuracy) for line in lines)
    text = [f"# Table {table.number}: {table.title}", ""]
    text += [f"{done} of {outcome.num_cells} runs are done.", ""] if done < outcome.num_cells else []
    text += [*_what_was_run(outcome.records, outcome.said), ""]
    for ratio in dict.fromkeys(line.ratio for line in lines):
        of_ratio = [line for line in lines if line.ratio == ratio]
        beside = published_columns(table, ratio)
        head = ["", "accuracy", "against FixMatch", "runs", "time", "clips seen"]
        head += [f"paper: {name}" for name in beside]
        text += [f"## {ratio_text(ratio)}", "", _joined(head), _joined(["---", *["---:"] * (len(head) - 1)])]
        for line in of_ratio:
            numbers = [_published_text(beside[name], line.row, table) for name in beside]
            text.append(_joined([*line_cells(line), *numbers]))
        text.append("")
    text += [*_how_to_read(lines), ""]
    failures = {name: why for line in lines for name, why in line.failures.items()}
    if failures:
        text += ["## Failed", "", *(f"- `{name}`: {why}" for name, why in sorted(failures.items())), ""]
    return "\n".join(text)


def line_cells(line: Line) -> list[str]:
    """Return a line as text: name, accuracy, difference, number of runs, wall time, clips seen."""
    accuracy = spread(list(line.accuracy.values()))
    runs = str(len(line.accuracy)) + (f" ({len(line.failures)} failed)" if line.failures else "")
    return [
        line.row.label,
        MISSING if accuracy is None else spread_text(accuracy),
        MISSING if line.difference is None else difference_text(line.difference, runs=len(line.accuracy)),
        runs,
        MISSING if line.wall_s is None else duration(line.wall_s.mean),
        MISSING if line.clips_seen is None else f"{line.clips_seen:,}",
    ]


def spread_text(value: Spread) -> str:
    """Return mean and deviation in per cent, such as `58.2 ± 1.3`."""
    return f"{value.mean:.1f}" + ("" if value.deviation is None else f" ± {value.deviation:.1f}")


def difference_text(value: Difference, *, runs: int) -> str:
    """Return a difference in points with its interval, such as `+3.1 [-0.4, +6.6]`.

    With the number of pairs if not all `runs` of the row have one.
    """
    low, high = value.interval
    interval = "" if low is None else f" [{low:+.1f}, {high:+.1f}]"
    return f"{value.mean:+.1f}{interval}" + ("" if value.n == runs else f" ({value.n} of {runs} seeds)")


def ratio_text(ratio: float | None) -> str:
    """Return which share of the labels is shown, for people."""
    return "Labels as the configuration says" if ratio is None else f"{ratio:g} % labels"


def published_columns(table: Table, ratio: float | None) -> dict[str, list[Published]]:
    """Return the paper's numbers by data set, network and the ratio nearest to this one, which is in the name too."""
    columns: dict[str, list[Published]] = {}
    groups = dict.fromkeys((number.dataset, number.backbone) for number in published() if number.table == table.number)
    for dataset, backbone in groups:
        of_group = [
            number
            for number in published()
            if (number.table, number.dataset, number.backbone) == (table.number, dataset, backbone)
        ]
        wanted = of_group[0].ratio if ratio is None else ratio
        nearest = min((number.ratio for number in of_group), key=lambda known: abs(known - wanted))
        name = f"{dataset}, {backbone}, {nearest:g} %"
        columns[name] = [number for number in of_group if number.ratio == nearest]
    return columns


def csv_text(outcome: Outcome) -> str:
    """Return the table with all its numbers, a line for each row and ratio; accuracies in per cent."""
    lines = []
    for line in outcome.lines:
        difference = line.difference
        pairs = "" if difference is None else str(difference.n)
        low, high = (None, None) if difference is None else difference.interval
        beside = published_columns(outcome.table, line.ratio)
        lines.append(
            {
                "table": outcome.table.number,
                "row": line.row.name,
                "label": line.row.label,
                "ratio": _digits_of_ratio(line.ratio),
                "runs": len(line.accuracy),
                "failed": len(line.failures),
                "seeds": " ".join(map(str, sorted(line.accuracy))),
                **_spread_digits("accuracy", spread(list(line.accuracy.values()))),
                **_spread_digits("macro", spread(list(line.macro.values()))),
                "difference": _digits(None if difference is None else difference.mean),
                "difference_low": _digits(low),
                "difference_high": _digits(high),
                "difference_pairs": pairs,
                "wall_s": _digits(None if line.wall_s is None else line.wall_s.mean),
                "clips_seen": line.clips_seen or "",
            }
            | {f"paper: {name}": str(_number_of(numbers, line.row) or "") for name, numbers in beside.items()}
        )
    names = list(dict.fromkeys(name for line in lines for name in line))
    return lines_text(names, [[line.get(name, "") for name in names] for line in lines])


def seeds_csv_text(outcome: Outcome) -> str:
    """Return a line for each run of the table, for statistics of one's own; accuracies in per cent."""
    return lines_text(
        ["table", "row", "label", "ratio", "seed", "accuracy", "macro"],
        [
            [
                *(outcome.table.number, line.row.name, line.row.label, _digits_of_ratio(line.ratio), seed),
                *(_digits(accuracy), _digits(line.macro.get(seed))),
            ]
            for line in outcome.lines
            for seed, accuracy in sorted(line.accuracy.items())
        ],
    )


def _found(
    row: Row, ratio: float | None, seeds: Sequence[int], cell_of: CellOf, records: Sequence[Record]
) -> tuple[dict[int, Record], list[Cell]]:
    """Return the records of a row by seed, and the cells that have none."""
    found, left = {}, []
    for seed in seeds:
        cell = cell_of(row, ratio, seed)
        record = find_record(cell, records)
        if record is None:
            left.append(cell)
        else:
            found[seed] = record
    return found, left


def _shares(records: dict[int, Record], kind: str) -> dict[int, float]:
    values = {seed: final_accuracy(record, kind) for seed, record in records.items()}
    return {seed: 100 * value for seed, value in values.items() if value is not None}


def _number_of(numbers: Sequence[Published], row: Row) -> float | None:
    return next((number.accuracy for number in numbers if number.method == row.published), None)


def _published_text(numbers: Sequence[Published], row: Row, table: Table) -> str:
    """Return the paper's number and how far it lies from the paper's FixMatch, if that is known."""
    value = _number_of(numbers, row)
    if value is None:
        return MISSING
    reference = _published_reference(numbers, table)
    return f"{value:.1f}" if reference is None or row.name == REFERENCE else f"{value:.1f} ({value - reference:+.1f})"


def _published_reference(numbers: Sequence[Published], table: Table) -> float | None:
    """Return the paper's FixMatch for the same data set, network and ratio: in this table, or else in Table 1."""
    for place in (table, TABLES["table1"]):
        row = next((row for row in TABLES[place.name].rows if row.name == REFERENCE), None)
        for number in published():
            same = (number.dataset, number.backbone, number.ratio) == (
                numbers[0].dataset,
                numbers[0].backbone,
                numbers[0].ratio,
            )
            if same and row is not None and (number.table, number.method) == (place.number, row.published):
                return number.accuracy
    return None


def _what_was_run(records: Sequence[Record], overrides: Sequence[str]) -> list[str]:
    """Return what the runs have in common, from their own settings; where they differ, everything there is."""
    if not records:
        return ["Nothing was run yet."]

    def said(name: str) -> str:
        values = dict.fromkeys(str(record["settings"].get(name)) for record in records if name in record["settings"])
        return ", ".join(values)

    counts = records[0]["summary"]["clips"]
    every_clip_unlabelled = records[0]["settings"].get("data.unlabeled") == "all"  # those with a label too
    training = counts["unlabelled"] + (0 if every_clip_unlabelled else counts["labelled"])
    epochs = dict.fromkeys(str(record["summary"]["epochs"]) for record in records)
    warmups = dict.fromkeys(
        f"{s['schedule.warmup_epochs']} + {s['schedule.epochs']} in phases of {s['schedule.phase_epochs']}"
        for record in records
        if (s := record["settings"]).get("schedule.phase_epochs") and s["schedule.epochs"]
    )
    budget = f"{', '.join(epochs)} epochs" + (f" ({', '.join(warmups)})" if warmups else "")
    deciding = [text for text in overrides if any(text.partition("=")[0] in record["settings"] for record in records)]
    settings = f" Set for all of them: {', '.join(f'`{text}`' for text in deciding)}." if deciding else ""
    held_out = any(record["settings"].get("data.validation") for record in records)
    tested = "validation clips (labelled clips held out; the test clips played no part)" if held_out else "test clips"
    return [
        f"{len(records[0]['summary']['classes'])} classes, {training:,} training clips, {counts['test']:,} {tested}; "
        f"network {said('model.name')} from {said('model.init')}, {said('data.num_frames')} frames of "
        f"{said('data.crop_size')} pixels; {budget}, batches of {said('trainer.batch_size')}, "
        f"learning rate {said('trainer.lr')}. Test clips by rule {said('data.test.rule')}, labels by "
        f"{said('data.labeled.rule')}. Run with aplt {', '.join(dict.fromkeys(r['code_version'] for r in records))} on "
        f"{'; '.join(dict.fromkeys(r['hardware'] for r in records))}.{settings}"
    ]


def _how_to_read(lines: Sequence[Line]) -> list[str]:
    pairs = sorted({line.difference.n for line in lines if line.difference is not None and line.difference.n > 1})
    interval = f" and its 95 % interval (Student's t, {' or '.join(map(str, pairs))} seeds)" if pairs else ""
    return [
        "Accuracy is that of the classifier which the method is tested with (the prototypes of APLT, the parametric "
        "head of others), mean ± standard deviation over seeds. A seed decides the split, the order of clips, the "
        "augmentation and the network's first weights, for all rows alike. *Against FixMatch* is the mean difference "
        f"over the seeds that both were run with, in points{interval}. Time is that in which a run was at work, with "
        "others beside it; clips seen counts labelled and unlabelled clips, each as often as training went through it.",
        "",
        "The paper's numbers are of its own splits, which are not published, and of the data sets and networks that "
        "the columns name, at the share of labels that is nearest to this one; in brackets, how far they lie from the "
        "paper's FixMatch. So compare gaps and order, not levels.",
    ]


def _joined(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _spread_digits(name: str, value: Spread | None) -> dict[str, str]:
    return {name: _digits(value.mean if value else None), f"{name}_sd": _digits(value.deviation if value else None)}


def _digits_of_ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:g}"


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
