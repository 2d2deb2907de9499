"""What a run says while it goes: metrics.jsonl, wandb, and the terminal."""

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from armd_dist.errors import TrainingError
from armd_dist.run import Run
from armd_dist.training.curves import Curves
from data_pipeline.files import write_atomically


@dataclass(frozen=True)
class StepMetrics:
    """One line of metrics.jsonl. `step` counts finished steps, from 1; loss is nats per token.

    loss and grad_norm are not there where they are not finite; skipped_updates: steps so far that changed nothing, as
    one of the two was not; loss_spike: 1, or not there; learned_order: by name, what LoMDM is watched by.

    datasets: by path, `samples` read so far and `epochs`, how many times over all of its windows that is;
    validation_loss: nats per token, in the steps that measured it.
    """

    step: int
    loss: float | None
    grad_norm: float | None
    learning_rate: float
    consumed_samples: int
    tokens_per_second: float
    phase: str
    rho: int
    datasets: dict[str, dict[str, float]]
    skipped_updates: int = 0
    validation_loss: float | None = None
    loss_spike: int | None = None
    learned_order: dict[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """What scripts read; nothing of what was not measured."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Metrics:
    """Writes every step to `metrics.jsonl` and wandb, and shows it. Used by the main process alone."""

    def __init__(self, run: Run, first_step: int, last_step: int, curves: Curves) -> None:
        self.run, self.curves = run, curves
        self.first_step, self.last_step = first_step, last_step
        self.file = Path(run.run.dir) / "metrics.jsonl"
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Self:
        forget_after(self.file, self.first_step)
        self.stream = open(self.file, "a")
        self.curves.start(self.run)
        self.progress.start()
        self.task = self.progress.add_task("", total=self.last_step, completed=self.first_step, text="")
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        with suppress(OSError):  # `log` has told of a full disk
            self.stream.close()

    def go_back(self, step: int) -> None:
        """Forgets all that came after `step` steps, which are done anew."""
        self.stream.close()
        forget_after(self.file, step)
        self.stream = open(self.file, "a")  # noqa: SIM115 (it stays open)

    def log(self, metrics: StepMetrics) -> None:
        try:
            self.stream.write(json.dumps(metrics.as_dict()) + "\n")
            self.stream.flush()
        except OSError as error:
            raise TrainingError(
                f"{self.file}: cannot be written ({error.strerror}); once that is mended, the same command "
                "continues from the newest checkpoint"
            ) from error
        self.curves.log(metrics.as_dict(), metrics.step)
        phase = metrics.phase if metrics.rho == 1 else f"{metrics.phase} rho={metrics.rho}"
        loss = "not finite" if metrics.loss is None else f"{metrics.loss:.4f}"
        text = f"loss {loss}  {metrics.tokens_per_second:,.0f} tokens/s  {phase}"
        if metrics.validation_loss is not None:
            text += f"  validation {metrics.validation_loss:.4f}"
        self.progress.update(self.task, completed=metrics.step, text=text)
        if not self.console.is_terminal and (
            metrics.step % self.run.logging.every == 0 or metrics.validation_loss is not None
        ):
            self.console.print(f"step {metrics.step}/{self.last_step}  {text}", highlight=False)


class Stopwatch:
    """Tokens per second between calls."""

    def __init__(self, tokens_per_step: int) -> None:
        self.tokens_per_step = tokens_per_step
        self.last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        elapsed, self.last = now - self.last, now
        return self.tokens_per_step / elapsed


def forget_after(file: Path, step: int) -> None:
    """Drops the lines of steps that a resumed run will do again, and a half-written last line."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue
    write_atomically(file, "".join(kept).encode())
