"""Runs of the real commands, a few side by side, that are seen while they go and leave no process behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from experiment import BenchmarkError, Folder, Job, last_step, train_loss, write_json
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from armd_dist.checkpoint.folder import COMPLETE, step_folder

POLL_SECONDS = 0.5
STOP_SECONDS = 20.0
LOG_LINES = 12
console = Console(highlight=False)


class Workers:
    """Runs jobs a few at a time, each in processes of one thread. Leaves no process behind, however it ends."""

    def __init__(self, folder: Folder, count: int) -> None:
        self.folder = folder
        self.count = count
        self.live: dict[str, subprocess.Popen[str]] = {}
        self.lock = threading.Lock()
        self.stopping = False
        # A job that a scheduler ends is an interrupted one: what runs is stopped, and the next start goes on.
        signal.signal(signal.SIGTERM, signal.default_int_handler)

    def run(self, jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
        """Does what is missing, longest first. Returns {name: result} of all. Raises BenchmarkError where one fails."""
        missing = sorted((job for job in jobs if self.folder.read(job) is None), key=_length, reverse=True)
        done = len(jobs) - len(missing)
        with Display(len(jobs), done) as display, ThreadPoolExecutor(self.count) as pool:
            waiting: dict[Future[None], Job] = {pool.submit(self._do, job): job for job in missing}
            try:
                while waiting:
                    ended, _ = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                    for future in ended:
                        display.finished(waiting.pop(future), future)
                    display.update({name: self._standing(name) for name in list(self.live)})
            except BaseException:
                self._stop(pool)
                raise
        return {job.name: json.loads(self.folder.result(job.result_name).read_text()) for job in jobs}

    def command(self, name: str, words: Sequence[str]) -> None:
        """One `armd` command, its output appended to the log of `name`. Raises BenchmarkError with the log's end."""
        log = self.folder.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with log.open("a") as output:
            print("$ armd", *words, file=output, flush=True)
            with self.lock:
                if self.stopping:
                    raise BenchmarkError("stopped")
                process = self.live[name] = subprocess.Popen(
                    [sys.executable, "-m", "armd_dist", *words],
                    env=environment,
                    text=True,
                    stdout=output,
                    stderr=output,
                )
            code = process.wait()
            self.live.pop(name, None)
        if code:
            end = "\n".join(log.read_text().splitlines()[-LOG_LINES:])
            raise BenchmarkError(f"{name}: armd {words[0]} ended with {code}; {log} ends:\n{end}")

    def _do(self, job: Job) -> None:
        began = time.perf_counter()
        if not (step_folder(self.folder.run_dir(job.name), job.steps) / COMPLETE).exists():
            self.command(job.name, self.folder.train_command(job))
        result: dict[str, Any] = {"name": job.name, "settings": job.settings(), **job.facts}
        metrics = self.folder.run_dir(job.name) / "metrics.jsonl"
        result["train_loss"] = train_loss(metrics, job.first, job.steps)
        for evaluation in job.evaluations:
            self.command(job.name, self.folder.eval_command(job, evaluation))
            file = self.folder.run_dir(job.name) / evaluation.data / "evaluation.json"
            result[evaluation.data] = json.loads(file.read_text())["perplexity"]
        result["seconds_of_last_part"] = time.perf_counter() - began
        write_json(self.folder.result(job.result_name), result)

    def _standing(self, name: str) -> int:
        return last_step(self.folder.run_dir(name) / "metrics.jsonl")

    def _stop(self, pool: ThreadPoolExecutor) -> None:
        with self.lock:
            self.stopping = True
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self.live.values()):
            process.terminate()
        for process in list(self.live.values()):
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


class Display:
    """How far all runs are, and the step of each that runs now; a line for each that ends."""

    def __init__(self, total: int, done: int) -> None:
        columns = (TextColumn("{task.description:>28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.whole = self.progress.add_task("runs", total=total, completed=done)
        self.total, self.done = total, done
        self.shown: dict[str, TaskID] = {}

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, standing: dict[str, int]) -> None:
        """standing: {job: finished steps} of those that run."""
        for name in [name for name in self.shown if name not in standing]:
            self.progress.remove_task(self.shown.pop(name))
        for name, step in standing.items():
            if name not in self.shown:
                self.shown[name] = self.progress.add_task(name, total=None)
            self.progress.update(self.shown[name], completed=step)

    def finished(self, job: Job, future: Future[None]) -> None:
        """Raises what the job raised."""
        future.result()
        self.done += 1
        self.progress.update(self.whole, completed=self.done)
        console.print(f"{time.strftime('%H:%M:%S')}  {self.done} of {self.total}: {job.name}")


def _length(job: Job) -> float:
    return (job.steps - job.first) * float(job.facts.get("training_flops_per_token", 1))
