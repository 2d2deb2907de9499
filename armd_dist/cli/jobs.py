"""`armd launch status | logs | cancel`: what has become of a launched run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from launchers.status import Status

RUN = typer.Argument(metavar="RUN", help="A run folder (run.dir).", show_default=False)
RUNS = typer.Argument(metavar="RUN...", help="Run folders (run.dir).", show_default=False)
HEADS = ("run", "job", "state", "step", "loss", "tokens/s", "left", "restarts", "last word")


def status(runs: Annotated[list[Path], RUNS]) -> None:
    """Show how far runs are: their jobs' state in Slurm, and what the runs last said of themselves.

    `left` counts to the last step at the mean pace since the job began; `last word` is the age of the run's heartbeat.

    Example: armd launch status runs/books runs/web

    Again every minute: watch -n 60 armd launch status runs/*
    """
    from rich.console import Console
    from rich.markup import escape

    from armd_dist.tables import plain_table
    from launchers.status import statuses_of

    table, shown = plain_table(*HEADS), statuses_of(runs)
    for each in shown:
        table.add_row(*map(escape, _row(each)))
    # What reads a pipe wants a run in a line.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    for each in shown:
        if each.reason:
            typer.echo(f"{each.title.strip()}: {each.name}: {each.reason}")


def logs(
    run: Annotated[Path, RUN],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
    rank: Annotated[int, typer.Option(min=0, help="Process whose log is shown.")] = 0,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Lines of the past.")] = 100,
) -> None:
    """Show what a process of a run's job has written; with -f, whatever comes, across requeues.

    Example: armd launch logs -f runs/books
    """
    from launchers import logs as logs_of
    from launchers.record import newest

    def show(text: bytes) -> None:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()

    def tell(text: str) -> None:
        typer.echo(text, err=True)

    if not follow:
        record = newest(run)
        if logs_of.tail(record, rank, lines, show) == 0:
            tell(f"{record.log(rank)}: nothing has been written yet; see armd launch status {run}")
        return
    try:
        end = logs_of.follow(run, rank, lines, show, tell)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    tell(f"{run}: {end.name}" + (f": {end.reason}" if end.reason else ""))
    raise typer.Exit(0 if end.name == "finished" else 1)


def cancel(runs: Annotated[list[Path], RUNS]) -> None:
    """End the jobs of runs: Slurm's, or those of this machine. Their checkpoints stay.

    Example: armd launch cancel runs/books
    """
    from launchers.cancel import cancel as end
    from launchers.status import statuses_of

    for each in statuses_of(runs):
        if each.state.is_over:
            typer.echo(f"{each.run_dir}: job {each.record.id} is over already: {each.name}")
            continue
        end(each.record)
        typer.echo(f"{each.run_dir}: job {each.record.id} was told to end")


def _row(status: "Status") -> list[str]:
    from armd_dist.heartbeat import duration

    restarts = "" if status.state.restarts is None else str(status.state.restarts)
    beat = status.heartbeat
    if beat is None:
        return [status.title, status.record.id, status.name, "", "", "", "", restarts, ""]
    left = beat.eta_s if status.state.name == "running" and status.is_of_this_job else None
    return [
        status.title,
        status.record.id,
        status.name,
        f"{beat.step:,} of {beat.stop_at:,}",
        "" if beat.loss is None else f"{beat.loss:.4f}",
        "" if beat.tokens_per_second is None else f"{beat.tokens_per_second:,.0f}",
        "" if left is None else duration(left),
        restarts,
        f"{duration(beat.age_s)} ago",
    ]
