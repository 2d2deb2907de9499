"""`armd scaling`: studies of how loss falls with size, tokens and compute."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from armd_dist.scaling.grid import PlannedRun
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
    again: Annotated[bool, typer.Option("--again", help="Try runs that diverged once more, too.")] = False,
) -> None:
    """Train and evaluate every run that is not complete, on this machine; the same command goes on after a kill.

    A run that fails is tried again, then reported, and the others go on; the exit code is then 1.

    Example: armd scaling run configs/scaling/miniature.yaml
    """
    from armd_dist.scaling.grid import write_configs
    from armd_dist.scaling.local import Local

    study, planned = _planned(path)
    write_configs(study, planned)
    try:
        left = Local(study, planned, lambda line: typer.echo(f"{time.strftime('%H:%M:%S')} {line}")).run(again)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"{len(planned) - len(left)} of {len(planned)} runs are complete")
    for one in left:
        typer.echo(f"error: {one.name} is not; see {study.dir}/logs/{one.name}.log", err=True)
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
    from armd_dist.scaling.tables import status_table

    study, planned = _planned(path)
    if not watch:
        _print(status_table(study, planned))
        return
    from rich.live import Live

    try:
        with Live(status_table(study, planned), auto_refresh=False) as live:
            while True:
                time.sleep(REFRESH_S)
                live.update(status_table(study, planned), refresh=True)
    except KeyboardInterrupt:
        pass


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
