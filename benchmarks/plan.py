"""What a benchmark would do, before it does it."""

from collections.abc import Sequence

from experiment import Job
from models import Setting
from rich import box
from rich.markup import escape
from rich.table import Column, Table
from workers import console

EVALUATION_SHARE = 0.25  # of training's time; start-up included


def show_plan(setting: Setting, jobs: Sequence[Job], workers: int) -> None:
    """Every run with its own overrides, size, cost and tokens; then totals and an estimate."""
    table = Table(Column("run", overflow="fold"), "steps", "parameters", "MFLOPs a token", "tokens", box=box.SIMPLE)
    for job in jobs:
        facts = job.facts
        table.add_row(
            job.name,
            f"{job.first} to {job.steps}" if job.first else str(job.steps),
            f"{facts['parameters']:,}",
            f"{facts['training_flops_per_token'] / 1e6:.2f}",
            f"{facts['tokens']:,}",
        )
    console.print(table)
    for job in jobs:
        words = " ".join(f"'{text}'" if " " in text else text for text in job.overrides)
        console.print(f"[bold]{job.name}[/bold]: {escape(words)}", soft_wrap=True)
    flops = sum(job.facts["training_flops_per_token"] * job.facts["tokens"] for job in jobs)
    tokens = sum(job.facts["tokens"] for job in jobs)
    hours = flops / setting.flops_per_second / workers * (1 + EVALUATION_SHARE) / 3600
    console.print(f"{len(jobs)} runs, {tokens:,} tokens, {flops:.3g} FLOPs of training")
    console.print(
        f"about {hours:,.1f} hours with {workers} worker(s), at {setting.flops_per_second:.0e} FLOPs a second each "
        "(an assumption, not a measurement of this machine)"
    )
