"""`aplt config`: the settings, without starting anything."""

from __future__ import annotations

import typer

from aplt.deploy.commands.options import AsJson, ConfigFile, Overrides

app = typer.Typer(help="Show and check a configuration file.", no_args_is_help=True)


@app.command()
def show(cfg: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print all settings of a configuration, defaults included."""
    import yaml

    from aplt.deploy.config import load_config
    from aplt.deploy.display import print_json

    values = load_config(cfg, overrides or ()).model_dump(mode="json")
    if as_json:
        print_json(values)
    else:
        typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100).rstrip())


@app.command()
def check(cfg: ConfigFile, overrides: Overrides = None) -> None:
    """Check a configuration and the paths in it without starting anything; exit code 2 if something is wrong."""
    from aplt.deploy.config import check_paths, load_config

    config = load_config(cfg, overrides or ())
    check_paths(config)
    plan = config.plan()
    typer.echo(f"{cfg}: fine")
    typer.echo(f"  run {config.run} in {config.store.url}")
    typer.echo(f"  {config.method.name} with {config.model.name} on {config.data.root}")
    labels = f", {len(plan.phases)} label versions after epochs" if plan.phases else ""
    epochs = " ".join(str(phase.snapshot_epoch) for phase in plan.phases)
    typer.echo(f"  {plan.total_epochs} epochs{labels} {epochs}".rstrip())
