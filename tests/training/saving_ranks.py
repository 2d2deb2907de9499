"""Jobs of two processes that save, and verify one, for test_saving.py: on a disk that is slow, full or read-only.

One process imports torch and forks all of them. Each process writes a line of JSON for each thing that it sees.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from ranks import free_port

from armd_dist.checkpoint import writing
from armd_dist.checkpoint.folder import step_folder
from armd_dist.checkpoint.pieces import Piece
from armd_dist.errors import CheckpointError
from armd_dist.orders.curriculum import Position
from armd_dist.parallel.topology import Topology
from armd_dist.parallel.watch import Watch
from armd_dist.run import Run
from armd_dist.training.saving import Saver
from armd_dist.training.stopping import agree
from armd_dist.training.verifying import ask_all, help_to_ask

TIMEOUT_MINUTES = 0.06  # 3.6 s
WORLD, ROWS, COLUMNS = 2, 6, 50_000
POSITION = Position("left_to_right", 1, 0)


class Trainer:
    """Half of some matrices of ROWS x COLUMNS, all of whose values are the step; their saver."""

    def __init__(self, run_dir: Path, names: str, **settings: Any) -> None:
        self.run = Run.model_validate(
            {
                "run": {"dir": str(run_dir)},
                "model": {"vocab_size": 10},
                "data": {"path": "unused"},
                "training": {"steps": 100},
                "checkpoint": settings,
            }
        )
        rank = dist.get_rank()
        self.topology = Topology(rank, WORLD, 0, 1, rank, WORLD, 0, 1, torch.device("cpu"))
        count = ROWS * COLUMNS // WORLD
        self.values = torch.zeros(count)
        self.pieces = [
            (f"weight/{name}", Piece((ROWS, COLUMNS), (0, 0), (ROWS, COLUMNS), rank * count, self.values))
            for name in names
        ]
        manifest = SimpleNamespace(hash=lambda: "data", tokenizer_sha256="tokenizer")
        engine = SimpleNamespace(run=self.run, topology=self.topology, state=lambda: iter(self.pieces))
        self.saver = Saver(engine, manifest)  # type: ignore[arg-type]

    def steps(self, first: int, last: int, save: tuple[int, ...], say: Callable[..., None]) -> None:
        """A step takes a tenth of a second."""
        with self.saver:
            for step in range(first, last + 1):
                self.values.fill_(step)
                time.sleep(0.1)
                if step in save:
                    began = time.monotonic()
                    self.saver.save(step, step, POSITION)
                    say(paused=time.monotonic() - began, step=step)
                _, ended = agree(0, self.saver.ended)
                if ended:
                    self.saver.land()
                say(finished=step)


def slow_disk(seconds: float) -> None:
    """Every tensor, and what torch writes about them, takes so long."""
    at_once = writing._Stream._write

    def write(self: writing._Stream, left: memoryview) -> None:
        if len(left) > 1000:
            time.sleep(seconds)
        at_once(self, left)

    writing._Stream._write = write


def work(kind: str, run_dir: Path, say: Callable[..., None]) -> None:
    """`patient`: rank 1 writes for longer than the watch's time-out, tensor by tensor; `hangs`: it never ends."""
    rank, watched = dist.get_rank(), kind in ("patient", "hangs")
    if kind in ("slow", "waits", "killed") or (watched and rank == 1):
        slow_disk(600 if kind == "hangs" else 0.5)
    names = "abcdefghij" if kind == "patient" else "a"
    trainer = Trainer(run_dir, names, asynchronous=kind != "waits", keep=1, every=3, keep_every=3)
    lengths = {"full": (300, (1, 3)), "killed": (300, (3, 6)), "patient": (2, (1, 2)), "verified": (1, (1,))}
    last, saves = lengths.get(kind, (20, (1, 3, 20)))
    with Watch(rank, WORLD, TIMEOUT_MINUTES) if watched else nullcontext():
        try:
            trainer.steps(1, last, saves, say)
            if kind == "verified":
                verify(trainer, say)
            say(ended="well")
        except CheckpointError as error:
            say(ended=str(error))


def verify(trainer: Trainer, say: Callable[..., None]) -> None:
    """The main process asks about the checkpoint, sound and with a byte flipped in the file that rank 1 wrote."""
    folder = step_folder(Path(trainer.run.run.dir), 1)
    if dist.get_rank():
        say(heard=help_to_ask(trainer.topology))
        return
    say(sound=ask_all(folder, trainer.topology))
    file = folder / "state" / "__1_0.distcp"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    say(flipped=ask_all(folder, trainer.topology))
    dist.broadcast_object_list(["the answer"], src=0)


def fork(kind: str, run_dir: Path, out: Path, rank: int, port: int) -> int:
    """Starts a process; returns its id."""
    child = os.fork()
    if child:
        return child
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    code = 1
    os.dup2(os.open(out / f"{kind}.{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
    try:
        with open(out / f"{kind}.{rank}", "w") as lines:
            dist.init_process_group("gloo")
            work(kind, run_dir, lambda **seen: print(json.dumps(seen), file=lines, flush=True))
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main(jobs: dict[str, str], out: Path) -> None:
    """jobs: {kind: run folder}, one after the other; of "killed" both processes, as soon as the second save begins."""
    for kind, run_dir in jobs.items():
        port = free_port()
        processes = [fork(kind, Path(run_dir), out, rank, port) for rank in range(WORLD)]
        if kind == "killed":
            part = Path(run_dir) / "checkpoints" / ".step-00000006.partial" / "state" / "__1_0.distcp"
            deadline = time.monotonic() + 60
            while not part.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            for process in processes:
                os.kill(process, 9)
        for process in processes:
            os.waitpid(process, 0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
