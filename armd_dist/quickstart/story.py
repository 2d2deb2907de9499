"""The whole system in a few minutes on two CPU processes, told as the commands that a user would type."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from armd_dist.checkpoint.folder import COMPLETE, resolve_checkpoint, step_folder
from armd_dist.config import load_run
from armd_dist.errors import RunFolderError
from armd_dist.quickstart.baselines import write_baselines
from armd_dist.quickstart.report import Story, write_report
from armd_dist.run import Run

TENSOR_PARALLEL_SHARE = 0.1  # of all steps: enough to see it, and the slower layout on two CPU cores
MARK = ".made-by-armd-quickstart"
PROMPT = "Return the"
console = Console(highlight=False)


def tell(config: Path, clean: bool) -> None:
    """Runs the story, or goes on where it stopped. `clean` starts anew. Raises ArmdError, or CalledProcessError."""
    run = load_run(config)
    folder, data = Path(run.run.dir), Path(run.data.datasets[0].path).parent
    if clean:
        _remove(folder, data)
    began = time.perf_counter()
    _data(data, run)
    _train(config, run)
    samples = _look(folder, data, run)
    write_baselines(run, data, folder / "evaluation" / "baselines.json")
    story = Story.read(run, samples)
    report = write_report(story, folder / "report.html")
    _show(folder, story, report, time.perf_counter() - began)


def _data(data: Path, run: Run) -> None:
    _make_ours(data.parent)
    tokenizer = data.parent / "tokenizer.model"
    _chapter("Text to tokens: the documentation inside the Python installation")
    _armd("tokenizer", "train", "--input", "python-docs", "--out", tokenizer, "--vocab-size", run.model.vocab_size)
    _armd("data", "build", "--input", "python-docs", "--tokenizer", tokenizer, "--out", data, "--held-out", 0.03)


def _train(config: Path, run: Run) -> None:
    first = round(run.training.steps * TENSOR_PARALLEL_SHARE)
    _chapter("Training on two processes, each with half of every weight matrix (tensor parallel 2)")
    if not step_folder(Path(run.run.dir), run.training.steps).exists():
        _torchrun(config, "parallel.tensor=2", f"training.stop_at={first}")
    _chapter("The same run, continued with another layout: data parallel 2, optimizer state sharded (ZeRO 1)")
    _torchrun(config, "parallel.tensor=1", "parallel.zero_stage=1")


def _look(folder: Path, data: Path, run: Run) -> dict[int, str]:
    _chapter("Held-out perplexity, one token at a time and in parallel streams")
    if run.orders.strided_from is not None and run.orders.strided_from < run.training.steps:
        _evaluate(step_folder(folder, run.orders.strided_from), data, folder / "evaluation" / "before_strided")
    _evaluate(folder, data, folder / "evaluation")
    _chapter("An export that loads with transformers alone, and text from it in 1, 2 and 4 streams")
    if (folder / "export").exists():
        shutil.rmtree(folder / "export")  # ours: this folder's run may have gone on since
    _armd("export", folder, folder / "export")
    return {streams: _generate(folder / "export", streams) for streams in (1, 2, 4)}


def _evaluate(model: Path, data: Path, out: Path) -> None:
    if (out / "evaluation.json").exists() and _newer(out / "evaluation.json", model):
        console.print(f"{out / 'evaluation.json'} is there already", markup=False)
        return
    _armd("eval", model, "--data", data / "held_out", "--streams", "1,2,4", "--out", out)


def _newer(file: Path, model: Path) -> bool:
    """Than the checkpoint, or the newest one of a run's folder, which itself changes with whatever is put into it."""
    return file.stat().st_mtime > (resolve_checkpoint(model) / COMPLETE).stat().st_mtime


def _generate(export: Path, streams: int) -> str:
    arguments = ["--prompt", PROMPT, "--streams", streams, "--max-new-tokens", 96, "--temperature", 0.8, "--json"]
    answer = json.loads(_armd("generate", export, *arguments, capture=True))
    console.print(f"[dim]{answer['passes']} passes for {len(answer['tokens'])} tokens[/dim]")
    return PROMPT + answer["text"]


def _torchrun(config: Path, *overrides: str) -> None:
    launch = ["torchrun", "--nproc-per-node", "2", "-m", "armd_dist", "train", str(config)]
    _run([sys.executable, "-m", "torch.distributed.run", *launch[1:], *overrides], shown=[*launch, *overrides])


def _armd(*arguments: object, capture: bool = False) -> str:
    words = [str(argument) for argument in arguments]
    return _run([sys.executable, "-m", "armd_dist", *words], shown=["armd", *words], capture=capture)


def _run(command: list[str], shown: list[str], capture: bool = False) -> str:
    typed = " ".join(f"'{word}'" if " " in word else word for word in shown)
    console.print(f"[bold green]$[/bold green] {escape(typed)}", soft_wrap=True)
    # Two processes share two cores; and threads that wait for each other are slow where anything else runs as well.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, env=environment, check=True, text=True, stdout=subprocess.PIPE if capture else None
    )
    return result.stdout or ""


def _chapter(title: str) -> None:
    console.print(f"\n[bold]{title}[/bold]", soft_wrap=True)


def _make_ours(folder: Path) -> None:
    """Marks a folder that the story makes, so that --clean may delete it."""
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / MARK).touch()


def _remove(folder: Path, data: Path) -> None:
    """Deletes what an earlier story wrote, and nothing else. Raises RunFolderError where it is somebody else's."""
    if folder.exists() and not (folder / "run.yaml").exists():
        raise RunFolderError(f"{folder}: is not the folder of a run, so --clean leaves it alone; remove it yourself")
    shutil.rmtree(folder, ignore_errors=True)
    if (data.parent / MARK).exists():
        shutil.rmtree(data.parent)


def _show(folder: Path, story: Story, report: Path, seconds: float) -> None:
    table = Table("held-out perplexity", "", "passes", title="What you have just seen", box=box.SIMPLE)
    for row in story.rows():
        table.add_row(*row)
    console.print()
    console.print(table)
    console.print(f"\n[bold]A sample, 4 streams:[/bold] {escape(story.samples[4])}\n")
    for name, path in (
        ("report, opens from disk", report),
        ("checkpoints", folder / "checkpoints"),
        ("export for transformers", folder / "export"),
        ("every step", folder / "metrics.jsonl"),
    ):
        console.print(f"{name:>24}  {path}", markup=False)
    console.print(f"{'took':>24}  {seconds:.0f} s")
