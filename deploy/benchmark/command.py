"""What `aplt benchmark` does: plan, prepare, run, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aplt.common.data.manifest import write_text
from aplt.common.errors import DataError, RunError
from aplt.deploy.benchmark.grid import Folder, run_grid
from aplt.deploy.benchmark.plan import Plan, configured_ratio, data_digest, prepare_grid
from aplt.deploy.benchmark.records import Cell, Record, find_record, read_records
from aplt.deploy.benchmark.rows import APLT, REFERENCE, method_row
from aplt.deploy.benchmark.tables import Outcome, csv_text, line_cells, markdown, outcome_of, ratio_text, seeds_csv_text
from aplt.deploy.display import make_table, messages, output


def run_benchmark(plan: Plan, *, tables_only: bool, keep_runs: bool) -> None:
    """Run the grid and write its tables and figures.

    Raises:
        RunError: some cells failed; everything else is done and written.
    """
    folder, console = Folder(plan.out), messages()
    cells = plan.cells(None)
    first = cells[0].config
    if plan.ratios == (None,):
        plan = replace(plan, ratios=(configured_ratio(first),))
    if tables_only:
        write_results(plan, folder, data_digest(first) or recorded_digest(cells, read_records(folder.records)))
        return
    with folder.locked():
        prepare_grid(cells, console)
        digest = data_digest(first)
        try:
            failed = run_grid(plan.cells(digest), first.cluster, folder, console, keep_runs=keep_runs)
        except KeyboardInterrupt:
            console.print("nothing that was finished is lost: the same command goes on from here")
            raise
        finally:
            write_results(plan, folder, digest)
    if failed:
        raise RunError(
            f"{failed} runs failed; {plan.out / 'logs'} says why. The same command runs them again, and nothing else"
        )


def recorded_digest(cells: Sequence[Cell], records: Sequence[Record]) -> str | None:
    """Return the digest of the clips that the records of these cells are of, None if there are no records.

    Raises:
        DataError: they are of several sets of clips, which only the prepared clips could tell apart.
    """
    digests = {record["data"] for cell in cells for record in records if cell.is_of(record)}
    if len(digests) > 1:
        raise DataError(
            f"there are records of {len(digests)} sets of clips, and the prepared clips of the configuration are not "
            f"in {cells[0].config.data.folder}: set data.prepared to the folder of the set that the table is to be of"
        )
    return next(iter(digests), None)


def write_results(plan: Plan, folder: Folder, data: str | None) -> None:
    """Write tables and figures of all records that there are, and print the tables.

    Raises:
        RunError: they cannot be written.
    """
    try:
        _write_results(plan, folder, data)
    except OSError as error:
        raise RunError(
            f"the tables cannot be written: {error}. Mend that; with --tables-only the same command writes them from "
            "the records, and without it goes on"
        ) from None


def _write_results(plan: Plan, folder: Folder, data: str | None) -> None:
    from aplt.deploy.benchmark.pictures import table_picture  # matplotlib takes a second

    records = read_records(folder.records)
    for table in plan.tables:
        outcome = outcome_of(
            table,
            plan.ratios,
            plan.seeds,
            cell_of=lambda row, ratio, seed: plan.cell(row, ratio, seed, data),
            records=records,
            failure_of=folder.failure_of,
            said=plan.overrides,
        )
        write_text(folder.path / f"{table.name}.md", markdown(outcome))
        write_text(folder.path / f"{table.name}.csv", csv_text(outcome))
        write_text(folder.path / f"{table.name}-seeds.csv", seeds_csv_text(outcome))
        _write_picture(folder.path / f"{table.name}.png", table_picture(outcome))
        print_outcome(outcome)
    names = write_figures(plan, folder, records, data)
    pages = ", ".join([*(f"{table.name}.md" for table in plan.tables), *names])
    output().print(f"In {folder.path}: {pages}", markup=False)


def write_figures(plan: Plan, folder: Folder, records: Sequence[Record], data: str | None) -> list[str]:
    """Write the figures that compare FixMatch and APLT, where both were run; returns the names of the files."""
    from aplt.deploy.benchmark.pictures import class_gains, class_gains_picture, pseudo_label_picture, seeds_text

    names: list[str] = []
    if not any(row.name == APLT for table in plan.tables for row in table.rows):
        return names
    for ratio in plan.ratios:
        found: dict[str, dict[int, Record]] = {}
        for name, label in ((REFERENCE, "FixMatch"), (APLT, "APLT")):
            cells = {seed: plan.cell(method_row(name, label), ratio, seed, data) for seed in plan.seeds}
            by_seed = {seed: find_record(cell, records) for seed, cell in cells.items()}
            found[label] = {seed: record for seed, record in by_seed.items() if record is not None}
        seeds = sorted(found["FixMatch"].keys() & found["APLT"].keys())
        subtitle = f"{ratio_text(ratio)} · {seeds_text(seeds)}"
        curves = {label: [by_seed[seed] for seed in seeds] for label, by_seed in found.items()}
        pictures = {
            "figure2b": pseudo_label_picture(curves, subtitle + " · lines: mean, bands: lowest to highest"),
            "figure4": class_gains_picture(class_gains(found["APLT"], found["FixMatch"]), subtitle),
        }
        for figure, picture in pictures.items():
            name = f"{figure}.png" if ratio is None else f"{figure}-{ratio:g}.png"
            _write_picture(folder.path / name, picture)
            names += [] if picture is None else [name]
    return names


def _write_picture(path: Path, picture: bytes | None) -> None:
    """Write a picture, or remove that of other settings where there is nothing to draw."""
    if picture is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(picture)


def print_outcome(outcome: Outcome) -> None:
    """Print the numbers of a table, without the paper's."""
    for ratio in dict.fromkeys(line.ratio for line in outcome.lines):
        lines = [line_cells(line) for line in outcome.lines if line.ratio == ratio]
        title = f"Table {outcome.table.number}: {outcome.table.title}. {ratio_text(ratio)}"
        output().print(make_table(title, ["", "accuracy", "against FixMatch", "runs", "time", "clips seen"], lines))
