"""What the benchmarks share: text to data once, and many runs of the real commands that stop and go on at any point.

OUT/data holds the tokenizer and the datasets, OUT/runs/NAME the run folders, OUT/logs what the commands said, and
OUT/results/NAME.json what a run came to. A run whose result is there is never done again.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from armd_dist.checkpoint.folder import step_folder
from armd_dist.errors import ArmdError
from data_pipeline.files import write_atomically

LAST_PART = 10  # of a run's steps, one part: those whose training loss is averaged
Command = Callable[[str, Sequence[str]], None]


class BenchmarkError(ArmdError):
    """A benchmark that cannot go on as asked."""


@dataclass(frozen=True)
class Evaluation:
    """One `armd eval`. data: held_out or zero_shot; streams: None for a denoiser, which has no strided orders."""

    data: str
    streams: str | None
    random_orders: int
    windows: int | None


@dataclass(frozen=True)
class Job:
    """One training run and its evaluations.

    overrides: of the preset, all but the folders; steps: where it ends; after: the job whose last checkpoint it
    continues (None: from new weights), which ended at `first`; resolved: every setting that the preset and the
    overrides come to, but for folders and what is logged. A job without evaluations is trained alone, and the same
    job with them goes on from there.
    """

    name: str
    overrides: tuple[str, ...]
    steps: int
    evaluations: tuple[Evaluation, ...]
    after: str | None = None
    first: int = 0
    facts: dict[str, Any] = field(default_factory=dict, compare=False)
    resolved: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def result_name(self) -> str:
        return self.name if self.evaluations else f"{self.name}-trained"

    def settings(self) -> dict[str, Any]:
        """What decides the result; a result of other settings is refused."""
        return {
            "overrides": list(self.overrides),
            "steps": self.steps,
            "after": self.after,
            "evaluations": [asdict(one) for one in self.evaluations],
            "resolved": self.resolved,
        }


@dataclass(frozen=True)
class Folder:
    """OUT, and where things lie in it."""

    out: Path
    config: Path

    def run_dir(self, name: str) -> Path:
        return self.out / "runs" / name

    def log(self, name: str) -> Path:
        return self.out / "logs" / f"{name}.log"

    def result(self, name: str) -> Path:
        return self.out / "results" / f"{name}.json"

    def data(self, name: str) -> Path:
        """The dataset to train on (train), or to evaluate on (held_out, zero_shot)."""
        return self.out / "data" / ("zero_shot/train" if name == "zero_shot" else f"tokens/{name}")

    def read(self, job: Job) -> dict[str, Any] | None:
        """The result of a finished job, None where there is none. Raises BenchmarkError for one of other settings."""
        file = self.result(job.result_name)
        if not file.exists():
            return None
        found = json.loads(file.read_text())
        if found["settings"] != job.settings():
            raise BenchmarkError(f"{file}: is of other settings than asked for now; choose another --out")
        return found

    def train_command(self, job: Job) -> list[str]:
        """`armd train`, which continues what was interrupted; a continuation starts from its predecessor's end."""
        where = self.run_dir(job.name)
        command = ["train", str(self.config), f"run.dir={where}", f"data.path={self.data('train')}", *job.overrides]
        if job.after is not None:
            command.append(f"checkpoint.resume={step_folder(self.run_dir(job.after), job.first)}")
        return command

    def eval_command(self, job: Job, evaluation: Evaluation) -> list[str]:
        words = ["eval", str(step_folder(self.run_dir(job.name), job.steps)), "--data", str(self.data(evaluation.data))]
        words += ["--out", str(self.run_dir(job.name) / evaluation.data)]
        if evaluation.streams is not None:
            words += ["--streams", evaluation.streams]
        if evaluation.random_orders:
            words += ["--random-orders", str(evaluation.random_orders)]
        if evaluation.windows is not None:
            words += ["--windows", str(evaluation.windows)]
        return words


def prepare_data(
    command: Command, folder: Folder, text: Path, zero_shot: Path | None, vocab_size: int, held_out: float
) -> None:
    """Tokenizer and datasets from DIR/*.txt; the commands see by themselves that they were done already."""
    files = training_files(text, zero_shot)
    if not files:
        raise BenchmarkError(f"--text {text}: holds no .txt file to train on; give a folder of plain text")
    data = folder.out / "data"
    inputs = [word for path in files for word in ("--input", str(path))]
    tokenizer = ["--tokenizer", str(data / "tokenizer.model")]
    vocabulary = ["--vocab-size", str(vocab_size)]
    command("data", ["tokenizer", "train", *inputs, "--out", tokenizer[1], *vocabulary])
    share = ["--held-out", str(held_out)]
    command("data", ["data", "build", *inputs, *tokenizer, "--out", str(data / "tokens"), *share])
    if zero_shot is not None:
        out = ["--out", str(data / "zero_shot")]
        command("data", ["data", "build", "--input", str(zero_shot), *tokenizer, *out])


def training_files(text: Path, zero_shot: Path | None) -> list[Path]:
    """DIR/*.txt but for the file that is never trained on, by whatever path it is named."""
    kept_out = zero_shot.resolve() if zero_shot is not None else None
    return sorted(path for path in text.glob("*.txt") if path.resolve() != kept_out)


def last_step(metrics: Path) -> int:
    """The step of the last whole line of metrics.jsonl, 0 where there is none."""
    if not metrics.exists():
        return 0
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")[:-1]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def train_loss(metrics: Path, first: int, steps: int) -> float:
    """Mean training loss of the last tenth of a run's steps first + 1..steps, in nats a token."""
    begin = steps - max(1, (steps - first) // LAST_PART)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if begin < line["step"] <= steps and "loss" in line}
    if len(losses) != steps - begin:
        raise BenchmarkError(f"{metrics}: lacks steps of {begin + 1} to {steps}; choose another --out")
    return mean(losses.values())


def write_json(file: Path, content: object) -> None:
    write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())
