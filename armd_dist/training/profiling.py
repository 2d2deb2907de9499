"""Traces of some steps, as logging.profile asks for them, to be looked at in Perfetto or chrome://tracing."""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from armd_dist.errors import describe
from armd_dist.parallel.progress import enter
from armd_dist.parallel.topology import Topology
from armd_dist.run import Run

TRACES = "profile"


class Profiler:
    """Traces the steps of logging.profile on one process of each pipeline stage: its first one, which does what the
    stage's others do. What was under way when training ends is written too.

    The trace begins with the first of them and ends behind the last, so that waiting for data in between is in it.
    """

    def __init__(self, run: Run, topology: Topology) -> None:
        self.steps = run.logging.profiled_steps or range(0)
        self.traces = topology.data_rank == topology.tensor_rank == 0
        file = f"steps-{run.logging.profile}-rank-{topology.rank}.json.gz"
        self.file, self.is_main = Path(run.run.dir) / TRACES / file, topology.is_main
        self.running: profile | None = None

    def step(self, step: int) -> AbstractContextManager[object]:
        """Around what `step` (from 1) does."""
        if step not in self.steps or not self.traces:
            return nullcontext()
        if self.running is None:
            on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self.running = profile(activities=[ProfilerActivity.CPU, *on_gpu])
            self.running.start()
        return record_function(f"step {step}")

    def after(self, step: int) -> None:
        """Writes the trace where `step` (from 1) was the last of it. Every process calls it."""
        if self.steps and step == self.steps[-1]:
            enter("writing a trace")  # all of them: phases are counted
            self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._write()

    def _write(self) -> None:
        """A trace that cannot be written is no reason to stop training."""
        running, self.running = self.running, None
        if running is None:
            return
        running.stop()
        try:
            self.file.parent.mkdir(exist_ok=True)
            running.export_chrome_trace(str(self.file))
        except (OSError, RuntimeError) as error:
            text = describe(error) if isinstance(error, OSError) else str(error)
            print(f"warning: {self.file}: the trace cannot be written ({text})", file=sys.stderr, flush=True)
            return
        if self.is_main:
            print(f"traced: open {self.file} in ui.perfetto.dev", file=sys.stderr, flush=True)
