"""`aplt data`: preparing, checking, showing and splitting the clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aplt.deploy.commands.options import AsJson, Overrides

if TYPE_CHECKING:
    from aplt.common.config import DataConfig

NAMES_SHOWN = 5

What = Annotated[
    str,
    typer.Argument(
        metavar="WHAT",
        help="A data set (ma52, imigue, smg, ucf101, hmdb51, kinetics400, folder, csv) or a configuration file.",
    ),
]
Where = Annotated[Path, typer.Argument(metavar="WHERE", help="A prepared folder, or a configuration file.")]
Root = Annotated[Path | None, typer.Option("--root", metavar="R", help="The folder with the data set's files.")]
Subset = Annotated[
    str | None, typer.Option("--subset", metavar="NAME", help="Its most frequent classes: ma12, smg5, imigue11, top:K.")
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="NAME=VALUE", help="What only this data set has, such as fold=2. May be repeated."
    ),
]
Labels = Annotated[Path | None, typer.Option("--labels", metavar="CSV", help="The table of data set csv.")]

app = typer.Typer(help="Prepare, check, show and split clips.", no_args_is_help=True)


@app.command()
def prepare(
    what: What,
    root: Root = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="M", help="The folder (or s3://...) that is made.")
    ] = None,
    subset: Subset = None,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", metavar="RULE", help="official, balanced, group or random: which clips are tested."),
    ] = None,
    labels: Labels = None,
    group_regex: Annotated[
        str | None,
        typer.Option("--group-regex", metavar="REGEX", help="Finds the subject in a file name: '^([^_]+)_'."),
    ] = None,
    ratio: Annotated[
        float | None, typer.Option("--ratio", metavar="SHARE", help="The share of labels that is shown, such as 0.1.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Of the split.")] = None,
    option: Options = None,
    overrides: Overrides = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say what disk and time it would take.")] = False,
) -> None:
    """Find, split and decode clips once; only what is missing or damaged, so it may be stopped and started again."""
    from aplt.deploy.display import duration, make_table, messages, output
    from aplt.deploy.prepare import estimate_prepare, open_prepared, push_prepared, run_prepare

    values = {
        "root": root,
        "prepared": out,
        "subset": subset,
        "labels": labels,
        "group_regex": group_regex,
        "test.rule": protocol,
        "labeled.ratio": ratio,
        "split_seed": seed,
        "options": _pairs(option) or None,
    }
    given = {name: value for name, value in values.items() if value is not None}
    config, store_options = _data_of(what, given, overrides or ())
    console = output()
    if estimate:
        with messages().status("decoding a few clips"):
            rows = estimate_prepare(config)
        console.print(make_table(None, ["", ""], rows, left=2))
        return
    report = run_prepare(config, messages(), verify=True)
    push_prepared(config, store_options, messages())
    console.print(make_table(None, ["class", "clips"], sorted(report.class_counts.items())))
    for note in report.notes:
        console.print(note, markup=False)
    data = open_prepared(config)
    console.print(
        f"{report.num_clips} clips: {len(data.labeled_rows_M)} labelled and {len(data.unlabeled_rows_N)} unlabelled "
        f"for training, {len(data.test_rows_T)} for testing (split {config.split_name})"
    )
    console.print(f"{report.decoded_now} decoded now, {duration(report.seconds)}; all in {config.prepared}")
    for clip_id, reason in report.quarantined:
        typer.echo(f"quarantined {clip_id}: {reason}", err=True)


@app.command()
def check(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="A data set, a prepared folder or a configuration file.")],
    root: Root = None,
    option: Options = None,
    labels: Labels = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Look for faults that training would not notice; exit code 1 if there are errors (warnings alone: 0).

    Given a data set, its lists under --root are compared with the published counts; the videos need not be there.
    """
    from aplt.common.data.datasets import DATASETS
    from aplt.common.errors import ConfigError

    if what in DATASETS:
        if root is None:
            raise ConfigError(f"aplt data check {what} needs --root: the folder with its files")
        _check_lists(what, root, {**_pairs(option), **({} if labels is None else {"labels": labels})}, as_json)
    else:
        _check_prepared(Path(what), overrides or (), as_json)


@app.command()
def show(
    where: Where,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Default: pictures/ in the prepared folder.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Draw frames of every class, clips by class and part, lengths, frame sizes and rates; lists the files it wrote.

    For people: the classes of unlabelled clips are shown too.
    """
    from aplt.deploy.display import messages
    from aplt.deploy.overview import Overview
    from aplt.deploy.showing import show as draw

    config = _data_at(where, overrides or ())
    overview = Overview.read(config.folder, config.split_name)
    with messages().status("drawing"):
        for path in draw(overview, crop_size=config.crop_size, out=out or config.folder / "pictures"):
            typer.echo(path)


@app.command()
def split(
    where: Where,
    ratio: Annotated[
        float | None, typer.Option("--ratio", metavar="SHARE", help="Share of labels that is shown.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Of the draw.")] = None,
    rule: Annotated[
        str | None,
        typer.Option("--rule", metavar="RULE", help="per-class, overall, usb-balanced, tcl-classwise or all."),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", metavar="RULE", help="official, balanced, group or random.")
    ] = None,
    labeled: Annotated[
        Path | None, typer.Option("--labeled", metavar="LIST", help="Import: the labelled clips, one a line.")
    ] = None,
    unlabeled: Annotated[
        Path | None, typer.Option("--unlabeled", metavar="LIST", help="Import: the unlabelled clips.")
    ] = None,
    test: Annotated[Path | None, typer.Option("--test", metavar="LIST", help="Import: the test clips.")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Of an imported split.")] = None,
    overrides: Overrides = None,
) -> None:
    """Draw a split of prepared clips by rules, or import somebody's lists, and list all splits that are there."""
    from aplt.common.data.prepare import add_split, import_split
    from aplt.common.data.prepared import SPLITS, read_split, split_names
    from aplt.common.errors import ConfigError
    from aplt.deploy.display import make_table, output

    values = {"labeled.ratio": ratio, "split_seed": seed, "labeled.rule": rule, "test.rule": protocol}
    given = {key: value for key, value in values.items() if value is not None}
    config = _data_at(where, [*_as_overrides(given), *(overrides or ())])
    if labeled is not None:
        if name is None:
            raise ConfigError("an imported split needs --name, by which data.split chooses it")
        import_split(config.folder, name, rules=config.rules, labeled=labeled, unlabeled=unlabeled, test=test)
    elif unlabeled is not None or test is not None or name is not None:
        raise ConfigError("--unlabeled, --test and --name go with --labeled: the list of labelled clips")
    else:
        add_split(config.folder, config.rules)
        name = config.rules.name
    rows = []
    for known in split_names(config.folder):
        about = read_split(config.folder, known)
        counts = [about["clips"][part] for part in ("labeled", "unlabeled", "test")]
        rows.append(("*" if known == name else "", known, *counts, "imported" if "imported" in about else "drawn"))
    output().print(make_table(None, ["", "split", "labelled", "unlabelled", "test", ""], rows, left=2))
    typer.echo(f"{config.folder / SPLITS / (name or '')}; a run takes it with --set data.split={name}")


def _data_at(where: Path, overrides: Sequence[str]) -> DataConfig:
    from aplt.deploy.config import load_data_config

    return load_data_config(where, overrides)


def _data_of(what: str, given: dict[str, Any], overrides: Sequence[str]) -> tuple[DataConfig, dict[str, str]]:
    """Return the settings that a configuration file holds, or those that suit a data set; and the store's options."""
    from aplt.common.data.datasets import DATASETS
    from aplt.common.errors import ConfigError
    from aplt.deploy.config import load_config
    from aplt.deploy.display import messages
    from aplt.deploy.prepare import propose_data

    if what not in DATASETS:
        if given:
            raise ConfigError(
                f"{what} is no data set, so it is a configuration file, which says itself what --root, --out and the "
                f"other options say; the data sets are {', '.join(DATASETS)}"
            )
        whole = load_config(Path(what), overrides)
        return whole.data, whole.store.options
    missing = [f"--{option}" for option, name in (("root", "root"), ("out", "prepared")) if name not in given]
    if missing:
        raise ConfigError(f"aplt data prepare {what} needs {' and '.join(missing)}")
    with messages().status(f"looking at {given['root']}"):
        return propose_data(what, given, overrides), {}


def _check_lists(name: str, root: Path, options: dict[str, Any], as_json: bool) -> None:
    from dataclasses import asdict

    from aplt.common.data.datasets import check_source
    from aplt.deploy.display import print_json

    report = check_source(name, root, options=options)
    if as_json:
        print_json(asdict(report))
    else:
        for line in report.lines():
            typer.echo(line)
    if not report.ok:
        raise typer.Exit(1)


def _check_prepared(where: Path, overrides: Sequence[str], as_json: bool) -> None:
    from dataclasses import asdict

    from aplt.common.data.check import check as find_faults
    from aplt.deploy.display import print_json

    config = _data_at(where, overrides)
    findings = find_faults(root=config.root, prepared=config.folder, split=config.split_name)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{finding.severity} ({finding.kind}): {finding.message}")
            shown = ", ".join(finding.names[:NAMES_SHOWN])
            if finding.kind in ("missing", "quarantined"):
                typer.echo(f"  {shown}" + (", ... (--json lists all)" if len(finding.names) > NAMES_SHOWN else ""))
        if not findings:
            typer.echo(f"{config.folder}: no faults")
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


def _pairs(options: Sequence[str] | None) -> dict[str, Any]:
    import yaml

    from aplt.common.errors import ConfigError

    found = {}
    for option in options or ():
        name, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"--option {option}: expected NAME=VALUE, such as --option fold=2")
        found[name.strip()] = yaml.safe_load(value)
    return found


def _as_overrides(values: dict[str, Any]) -> list[str]:
    return [f"data.{name}={value}" for name, value in values.items()]
