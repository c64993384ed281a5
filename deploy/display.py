"""How numbers, tables and JSON look on the terminal and in pipes."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from aplt.common.errors import ConfigError

WIDTH_IN_PIPES = 200


def output(file: TextIO | None = None) -> Console:
    """Return where results go (standard output): wide enough for any table if that is not a terminal."""
    return _console(file=file)


def messages() -> Console:
    """Return where progress and remarks go: standard error."""
    return _console(stderr=True)


def make_table(
    title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1
) -> RenderableType:
    """Return a table whose first `left` columns are text and whose other columns are aligned as numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_header=any(columns))
    for number, column in enumerate(columns):
        is_text = number < left
        table.add_column(column, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    # A title of its own: rich would break one of the table to the table's width.
    return Group(*([Text(title, style="bold")] if title else []), table, "")


def print_json(value: Any, file: TextIO | None = None) -> None:
    """Print a value for programs."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False), file=file)


@contextmanager
def open_output(path: Path | None, *, force: bool) -> Iterator[TextIO]:
    """Open the file that results go to: standard output if `path` is None or `-`.

    Raises:
        ConfigError: the file exists and `force` was not said, or it cannot be written.
    """
    if path is None or str(path) == "-":
        yield sys.stdout
        return
    try:
        file = path.open("w" if force else "x", newline="", encoding="utf-8")
    except FileExistsError:
        raise ConfigError(f"{path} exists already; choose another name, or overwrite it with --force") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    with file:
        yield file


def write_csv(file: TextIO, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as CSV with a header line."""
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def percent(share: float | None) -> str:
    """Return 0.1234 as `12.3 %`, nothing known as a dash."""
    return "-" if share is None else f"{100 * share:.1f} %"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many decimals, nothing known as a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def file_size(num_bytes: float) -> str:
    """Return a size as people write it, such as `3.4 MB`."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} bytes"
    units = ("kB", "MB", "GB", "TB")
    power = min(int(math.log10(num_bytes) / 3), len(units))
    return f"{num_bytes / 1000**power:.1f} {units[power - 1]}"


def duration(seconds: float) -> str:
    """Return a time span as people say it, such as `45 s`, `12 min` or `3 days`."""
    for limit, unit_s, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"


def age(created_at: str) -> str:
    """Return how long ago an ISO time was."""
    return duration(max(0.0, (datetime.now(UTC) - datetime.fromisoformat(created_at)).total_seconds())) + " ago"


def _console(*, stderr: bool = False, file: TextIO | None = None) -> Console:
    console = Console(file=file, stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(file=file, stderr=stderr, highlight=False, width=WIDTH_IN_PIPES)
