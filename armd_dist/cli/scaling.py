"""`armd scaling`: studies of how loss falls with size, tokens and compute."""

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from armd_dist.scaling.grid import PlannedRun
    from armd_dist.scaling.local import Local
    from armd_dist.scaling.study import Study

app = typer.Typer(
    no_args_is_help=True, help="Plan, run and fit studies of how loss falls with size, tokens and compute."
)
STUDY = typer.Argument(
    metavar="STUDY", help="YAML of the study, as configs/scaling/miniature.yaml.", show_default=False
)
REFRESH_S = 5.0


@app.command()
def plan(path: Annotated[Path, STUDY]) -> None:
    """Print what every run of a study costs, and write its config; nothing is started.

    Refuses what does not fit the GPUs, with all problems at once.

    Example: armd scaling plan configs/scaling/miniature.yaml
    """
    from armd_dist.scaling.grid import write_configs
    from armd_dist.scaling.tables import plan_table, total_line

    study, planned = _planned(path)
    _print(plan_table(study, planned))
    typer.echo(total_line(study, planned))
    typer.echo(f"{len(planned)} configs in {write_configs(study, planned)}")


@app.command()
def run(
    path: Annotated[Path, STUDY],
    cluster: Annotated[
        str | None, typer.Option(help="Submit to Slurm: the name of a cluster, or a YAML file, as armd launch slurm.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Runs that train at a time on the cluster, at most.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="With --cluster: stay until all are over, and end those that diverge.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Try runs that diverged once more, too.")] = False,
) -> None:
    """Train and evaluate every run that is not complete; the same command goes on after a kill, and repeats nothing.

    A run that fails is tried again, then reported, and the others go on; the exit code is then 1. On Slurm the runs are
    one array, and the command returns at once.

    Example: armd scaling run configs/scaling/miniature.yaml

    On Slurm: armd scaling run STUDY --cluster mine --limit 8
    """
    from armd_dist.scaling.grid import write_configs
    from armd_dist.scaling.local import Local

    if cluster is None and (limit or wait):
        raise typer.BadParameter("--limit and --wait are of a cluster: give --cluster, or leave them out")
    study, planned = _planned(path)
    write_configs(study, planned)
    local = Local(study, planned, lambda line: typer.echo(f"{time.strftime('%H:%M:%S')} {line}"))
    if cluster is not None:
        _submit(local, cluster, limit, wait, again)
        return
    try:
        local.run(again)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on", err=True)
        raise typer.Exit(130) from None
    _conclude(study, planned)


def _submit(local: "Local", name: str, limit: int | None, wait: bool, again: bool) -> None:
    from launchers.study import cluster_of, submit_study, wait_for

    study, planned = local.study, local.planned
    cluster = cluster_of(study, name)
    local.prepare()
    records = submit_study(study, planned, cluster, limit, again)
    typer.echo(f"{len(records)} of {len(planned)} runs submitted; the others are complete, under way or given up")
    for record in records:
        typer.echo(f"  {record.id}  logs {record.log(0)}")
    if wait:
        wait_for(study, planned, local.say)
        _conclude(study, planned)


def _conclude(study: "Study", planned: "Sequence[PlannedRun]") -> None:
    """Says what is complete and what is not. Exits with 1 where something is not."""
    from armd_dist.scaling.standing import standing_of

    left = [one for one in (standing_of(study, one) for one in planned) if one.state != "complete"]
    typer.echo(f"{len(planned) - len(left)} of {len(planned)} runs are complete")
    for one in left:
        typer.echo(f"error: {one.planned.name}: {one.state}" + (f": {one.reason}" if one.reason else ""), err=True)
    if left:
        raise typer.Exit(1)


@app.command()
def status(
    path: Annotated[Path, STUDY],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on showing it until Ctrl-C.")] = False,
) -> None:
    """Show how far each run of a study is.

    Example: armd scaling status configs/scaling/miniature.yaml --watch
    """
    study, planned = _planned(path)
    if not watch:
        _print(_status_table(study, planned))
        return
    from rich.live import Live

    with suppress(KeyboardInterrupt), Live(_status_table(study, planned), auto_refresh=False) as live:
        while True:
            time.sleep(REFRESH_S)
            live.update(_status_table(study, planned), refresh=True)


def _status_table(study: "Study", planned: "list[PlannedRun]") -> "Table":
    from armd_dist.scaling.standing import run_dir
    from armd_dist.scaling.tables import status_table

    if not any((run_dir(one) / "launch").exists() for one in planned):
        return status_table(study, planned, {})
    from launchers.study import states_in_queue

    said = states_in_queue(planned)
    return status_table(study, planned, {name: (state.name, state.reason) for name, state in said.items()})


@app.command()
def fit(path: Annotated[Path, STUDY]) -> None:
    """Fit the law of each series of complete runs, and write fit.json; says which runs are left out, and why.

    Example: armd scaling fit configs/scaling/miniature.yaml
    """
    from armd_dist.scaling.fitting import fit_study, write_fit
    from armd_dist.scaling.tables import fit_lines, law_table

    study, planned = _planned(path)
    content = fit_study(study, planned)
    _print(law_table(content))
    for line in fit_lines(content):
        typer.echo(line)
    typer.echo(f"{write_fit(study, content)} written")


@app.command()
def report(path: Annotated[Path, STUDY]) -> None:
    """Fit, and write one page with figures; each figure also as PNG, with the data behind it as CSV.

    Example: armd scaling report configs/scaling/miniature.yaml
    """
    from armd_dist.scaling.fitting import fit_study, gather, write_fit
    from armd_dist.scaling.page import write_page

    study, planned = _planned(path)
    content = fit_study(study, planned)
    write_fit(study, content)
    points, _ = gather(study, planned)
    typer.echo(f"{write_page(study, content, points)} written")


def _planned(path: Path) -> "tuple[Study, list[PlannedRun]]":
    from armd_dist.scaling.grid import plan_study
    from armd_dist.scaling.study import load_study

    study = load_study(path)
    return study, plan_study(study)


def _print(table: "Table") -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 200).print(table)
