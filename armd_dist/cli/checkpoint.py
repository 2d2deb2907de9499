"""`armd checkpoint`: what a run has saved, whether it is whole, what differs, what may go."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from armd_dist.checkpoint.compare import Difference

app = typer.Typer(no_args_is_help=True, help="List, verify, compare and prune a run's checkpoints.")

RUN = typer.Argument(metavar="RUN", help="A run folder.", show_default=False)
EITHER = typer.Argument(metavar="RUN|CHECKPOINT", help="A run folder, or a step-* folder of one.", show_default=False)


@app.command("list")
def list_checkpoints(run: Annotated[Path, RUN]) -> None:
    """Show a run's checkpoints, and which one checkpoint.resume=auto would take.

    Names and sizes of the files are looked at, not their content: that is what verify does.

    Example: armd checkpoint list runs/books
    """
    import time

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from armd_dist.checkpoint.folder import flaw, size
    from armd_dist.checkpoint.retention import leftovers
    from armd_dist.heartbeat import duration

    folders = _checkpoints(run)
    flaws = {folder: flaw(folder) for folder in folders}
    taken = next((folder for folder in reversed(folders) if flaws[folder] is None), None)
    table = Table("step", "size", "age", "written by", "state", box=None)
    for folder in folders:
        state = escape(flaws[folder] or "complete") + (", [bold]auto takes it[/bold]" if folder == taken else "")
        age = duration(max(0.0, time.time() - folder.stat().st_mtime))
        table.add_row(folder.name, _bytes(size(folder)), age, _layout(folder), state)
    for folder in leftovers(run):
        table.add_row(folder.name, _bytes(size(folder)), "", "", "being written, or left by a killed process")
    Console().print(table)
    if taken is None:
        typer.echo(f"{run}: no checkpoint is complete")


@app.command()
def verify(path: Annotated[Path, EITHER]) -> None:
    """Compare every file with its checksum; exits with 1 and names the files where one is missing or has changed.

    Example: armd checkpoint verify runs/books
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from armd_dist.checkpoint.folder import damage, size

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    damaged = False
    for folder in _checkpoints(path):
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(f"verifying {folder.name}", total=size(folder))
            problem = damage(folder, lambda count, task=task: progress.advance(task, count))
        damaged |= problem is not None
        typer.echo(f"{folder}: sound" if problem is None else f"error: {problem}", err=problem is not None)
    if damaged:
        raise typer.Exit(1)


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint, or a run: its newest.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    top: Annotated[int, typer.Option(min=1, help="Tensors to show, those that differ most.")] = 20,
) -> None:
    """Show what differs: settings, where training stood, and tensors by the norm of their difference.

    The two may be of different layouts.

    Example: armd checkpoint diff runs/books/checkpoints/step-00001000 runs/books
    """
    from dataclasses import asdict

    from armd_dist.checkpoint.folder import read_training_state, resolve_checkpoint
    from armd_dist.training.run_folder import changes, read_settings

    pair = [resolve_checkpoint(path) for path in (before, after)]
    typer.echo(f"A: {pair[0]}\nB: {pair[1]}")
    _lines("settings", changes(*(read_settings(path / "run.yaml") for path in pair)))
    _lines("state", changes(*(asdict(read_training_state(path)) for path in pair)))

    from armd_dist.checkpoint.compare import compare_tensors

    _show(compare_tensors(*pair), top)


@app.command()
def prune(
    run: Annotated[Path, RUN],
    keep: Annotated[int, typer.Option(min=1, help="Newest sound checkpoints to keep.")],
    every: Annotated[int | None, typer.Option(min=1, help="Keep those of steps that this divides too.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and delete nothing.")] = False,
) -> None:
    """Delete all but the newest checkpoints. Damaged ones neither count nor go.

    Example: armd checkpoint prune runs/books --keep 2 --every 10000 --dry-run
    """
    from armd_dist.checkpoint.folder import size
    from armd_dist.checkpoint.retention import delete, surplus

    _checkpoints(run)
    going = surplus(run, keep, every)
    total = 0
    for folder in going:
        count = size(folder)
        if not dry_run:
            delete(folder)
        total += count
        typer.echo(f"{'would delete' if dry_run else 'deleted'} {folder} ({_bytes(count)})")
    typer.echo(f"{len(going)} checkpoint(s), {_bytes(total)}")


def _checkpoints(path: Path) -> list[Path]:
    """The checkpoints of a run, or the one at `path`. Raises CheckpointError where there is none."""
    from armd_dist.checkpoint.folder import step_folders
    from armd_dist.errors import CheckpointError

    if path.name.startswith("step-") and path.is_dir():
        return [path]
    found = step_folders(path)
    if not found:
        what = "holds no checkpoint" if path.is_dir() else "no such folder"
        raise CheckpointError(
            f"{path}: {what}; give a run folder, which has checkpoints/step-* folders, or one of those"
        )
    return found


def _layout(folder: Path) -> str:
    from armd_dist.checkpoint.folder import read_training_state
    from armd_dist.errors import CheckpointError

    try:
        topology = read_training_state(folder).topology
    except CheckpointError:
        return "?"
    parts = [f"{name} {topology[name]}" for name in ("tensor", "pipeline", "data") if topology.get(name, 1) > 1]
    return " x ".join(parts) or "1 process"


def _lines(title: str, lines: list[str]) -> None:
    typer.echo(f"{title}: " + ("the same" if not lines else ""))
    for line in lines:
        typer.echo(f"  {line}")


def _show(found: "list[Difference]", top: int) -> None:
    from rich.console import Console
    from rich.table import Table

    if not found:
        typer.echo("tensors: the same, to the last bit")
        return
    table = Table("tensor", "shape", "|B - A|", "|B - A| / |A|", box=None)
    for one in found[:top]:
        if one.before != one.after:
            table.add_row(one.name, f"{one.before} -> {one.after}", "", "")
        else:
            table.add_row(one.name, str(one.before), f"{one.norm:.4g}", f"{one.share:.2%}")
    typer.echo(f"tensors that differ: {len(found)}" + (f", of which the first {top}" if len(found) > top else ""))
    Console().print(table)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count} B"
        count /= 1000
    return f"{count:,.2f} TB"
