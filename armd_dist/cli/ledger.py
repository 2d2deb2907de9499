"""`armd data ledger`: proof of which samples a run has consumed."""

from pathlib import Path
from typing import Annotated

import typer

RUN = typer.Argument(metavar="RUN", help="A run folder, trained with data.ledger=true.", show_default=False)


def ledger(path: Annotated[Path, RUN]) -> None:
    """Prove from a run's ledger that every sample was consumed exactly once; exits with an error where it was not.

    A crash makes a run do the steps behind its last checkpoint again: what counts is said attempt by attempt.

    Example: armd data ledger runs/books
    """
    from armd_dist.checkpoint.folder import complete_checkpoints, read_training_state
    from data_pipeline.audit import audit
    from data_pipeline.errors import DataError

    found = complete_checkpoints(path)
    result = audit(path, saved=read_training_state(found[-1]).step if found else 0)
    for stretch in result.stretches:
        counted = f"{stretch.first} to {stretch.last} count" if stretch.last >= stretch.first else "none counts"
        done = f"{stretch.first} to {stretch.done}" if stretch.done >= stretch.first else "none"
        typer.echo(f"{stretch.name}: {stretch.about.ranks} rank(s), steps {done}; {counted}")
    for name, (samples, epochs) in result.by_dataset.items():
        typer.echo(f"{name}: {samples:,} samples, {epochs} whole epoch(s)")
    for first, end in result.left_out:
        typer.echo(f"samples {first} to {end - 1} were left out on purpose, back from a loss spike")
    if result.start:
        typer.echo(f"steps 1 to {result.start} stand in no ledger of {path}")
    if result.problems:
        raise DataError("\n  ".join([f"{path}: {len(result.problems)} problem(s) in its ledger", *result.problems]))
    steps = f"steps {result.start + 1} to {result.saved}" if result.saved > result.start else "no step is saved yet"
    typer.echo(f"{steps}: {result.samples:,} samples, each consumed exactly once")
