"""`aplt init`: from a folder of clips to a first configuration file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from aplt.deploy.proposal import Proposal
    from aplt.deploy.survey import Survey

FEW_CLIPS = 8
_TESTS = {
    "official": "as the data set or the table says",
    "group": "one subject in {n}, kept apart from training",
    "random": "one clip in {n} of each class",
}


def init(
    data: Annotated[
        Path, typer.Option("--data", metavar="CLIPS", help="The folder with the clips, or one that is prepared.")
    ],
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="ma52, imigue, smg, ucf101, hmdb51 or kinetics400."),
    ] = None,
    subset: Annotated[
        str | None, typer.Option("--subset", metavar="NAME", help="Its most frequent classes, such as ma12 or top:5.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="CSV", help="Table with columns path and label; else one folder per class."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")] = Path("cfg.yaml"),
    group_regex: Annotated[
        str | None,
        typer.Option("--group-regex", metavar="REGEX", help="Finds the subject in a file name: '^([^_]+)_'."),
    ] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="NAME", help="Name of the run.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Look at a folder of clips and write a commented configuration with settings that suit it."""
    import yaml

    from aplt.common.errors import ConfigError
    from aplt.deploy.config import DATA, load_data_config, parse_config
    from aplt.deploy.display import messages, open_output
    from aplt.deploy.proposal import config_text, propose, run_name_of, with_data
    from aplt.deploy.survey import look_at

    if out.exists() and not force:
        raise ConfigError(f"{out} exists already; choose another name with --out, or overwrite it with --force")
    prepared = load_data_config(data) if (data / DATA).is_file() else None
    adapter = dataset or ("folder" if labels is None else "csv")
    with messages().status(f"looking at {data}"):
        if prepared is None:
            survey = look_at(data, adapter=adapter, subset=subset, labels=labels, group_regex=group_regex)
        else:
            survey = look_at(
                prepared.root,
                adapter=prepared.adapter,
                subset=prepared.subset,
                options=prepared.options,
                labels=prepared.labels,
                group_regex=prepared.group_regex,
            )
    table = labels
    if labels is not None and survey.not_in_table:
        table = out.with_name(f"{out.stem}-clips.csv")
        _write_table(table, labels, survey, force=force)
    proposal = propose(survey)
    text = config_text(
        survey,
        proposal,
        run=run or run_name_of(data),
        root=_from(out.parent, data),
        labels=None if table is None else _from(out.parent, table),
    )
    if prepared is not None:
        text = with_data(text, prepared)
    parse_config(yaml.safe_load(text), source=str(out))
    with open_output(out, force=force) as file:
        file.write(text)
    _tell(survey, proposal)
    if table is not None and table != labels:
        typer.echo(f"wrote {table}: {labels} and the {len(survey.not_in_table)} clips it does not name, without label")
    typer.echo(f"wrote {out}; read it, then: aplt launch --cluster {out}")


def _from(folder: Path, path: Path) -> str:
    """Return a path as it is to be read from `folder`: relative if it is below, else absolute."""
    path, folder = path.expanduser().resolve(), folder.resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _write_table(target: Path, labels: Path, survey: Survey, *, force: bool) -> None:
    """Write the given table again, with a row without label for each clip that it does not name."""
    from aplt.deploy.display import open_output, write_csv

    columns = ("path", "label", "group", "split", "start", "end")
    named = [
        {"path": c.video, "label": c.label, "group": c.group, "split": c.split, "start": c.start, "end": c.end}
        for c in survey.clips
    ]
    with open_output(target, force=force) as file:
        write_csv(file, columns, [*named, *({"path": video} for video in survey.not_in_table)])


def _tell(survey: Survey, proposal: Proposal) -> None:
    """Print what was seen and what was chosen for it."""
    from aplt.deploy.display import make_table, output

    counts = survey.class_counts
    rarest = min(counts, key=lambda name: counts[name])
    widths, heights = zip(*survey.sizes, strict=True)
    groups = list(survey.groups)
    shown = " ".join(groups[:6]) + (" ..." if len(groups) > 6 else "")
    rows = [
        ("clips", f"{len(survey.clips) + len(survey.not_in_table)}, {survey.num_unlabeled or 'none'} without label"),
        ("classes", f"{len(counts)}, of {_range(list(counts.values()))} clips each"),
        ("subjects", f"{len(groups)}: {shown}" if groups else "not seen in the names; --group-regex can find them"),
        ("frames", f"{_range(survey.lengths)} per clip, {_range(widths)} x {_range(heights)} pixels"),
        ("machine", f"{survey.num_cores} cores, {', '.join(survey.gpus) or 'no GPU'}"),
        ("network", f"{proposal.model} on {proposal.crop_size}x{proposal.crop_size} pixels"),
        ("test clips", _TESTS[proposal.test_rule].format(n=proposal.test_every)),
        ("labels shown", "all that there are" if proposal.labeled_rule == "all" else "25 % of each class"),
    ]
    output().print(make_table(None, ["what", "seen or chosen"], rows, left=2))
    if counts[rarest] < FEW_CLIPS:
        typer.echo(f"note: class {rarest} has {counts[rarest]} labelled clips; expect little from so few")
    for clip, reason in survey.unreadable.items():
        typer.echo(f"note: {clip} cannot be decoded and will be left out: {reason}")


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
