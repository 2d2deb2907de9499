"""Commands after every n-th checkpoint: what is asked for, its rules, and the lines of the batch script for it.

A small process beside training, on the job's first node, does the work: `launchers.at_checkpoints`. Training's own
processes have no part in it, so that nothing here can slow them down or end them.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from armd_dist.errors import Problem
from armd_dist.run import Run
from launchers.config import ClusterConfig

OPTION = "--at-checkpoints"
FORM = 'as in --at-checkpoints "eval {checkpoint} --data DIR --out {run}/eval/{step}"'


@dataclass(frozen=True)
class AtCheckpoints:
    """`armd` commands, with {run}, {checkpoint} and {step} in them, for checkpoints of steps that `every` divides."""

    every: int
    commands: tuple[str, ...]

    def problems(self, runs: Sequence[Run]) -> list[Problem]:
        """What is wrong with the commands, or with when these runs save and what they keep; each once."""
        found = [problem for command in self.commands for problem in _of_command(command)]
        return list(dict.fromkeys([*found, *(problem for run in runs for problem in self._of_run(run))]))

    def lines(self, python: str, folder: Path, run_dir: str, cluster: ClusterConfig) -> tuple[list[str], list[str]]:
        """Of the batch script, before training and behind it. python, run_dir: shell as it is written."""
        settings = cluster.model_dump_json(exclude_defaults=True)
        words = shlex.join([str(folder), str(self.every), settings, *self.commands])
        before = [f"at_checkpoints=({python} -m launchers.at_checkpoints {run_dir} {words})"]
        # A simple command: the number is that of Python itself.
        before.append('"${at_checkpoints[@]}" watch & watcher=$!')
        return before, ["kill $watcher; wait $watcher", '"${at_checkpoints[@]}" last']

    def _of_run(self, run: Run) -> list[Problem]:
        saved, kept = run.checkpoint.every, run.checkpoint.keep_every
        last = run.training.stop_at or run.training.steps
        if self.every % saved:
            rule = f"is not a multiple of checkpoint.every={saved}, so that most of the steps it names save nothing"
            return [Problem("--every", self.every, rule, f"use {saved * -(-self.every // saved)}")]
        found = []
        if self.every > last:
            rule = f"names no step of a run that ends at step {last}"
            found.append(Problem("--every", self.every, rule, "use less, or --then for what comes after training"))
        if kept is None or self.every % kept:
            rule = f"may delete checkpoints of --every {self.every} before their command has begun"
            other = "" if kept is None else f", or --every {kept * -(-self.every // kept)}"
            found.append(Problem("checkpoint.keep_every", kept, rule, f"use checkpoint.keep_every={self.every}{other}"))
        return found


def _of_command(command: str) -> list[Problem]:
    if "{checkpoint}" not in command:
        return [Problem(OPTION, command, "does not name {checkpoint}, the checkpoint it is for", f"name it, {FORM}")]
    if "{checkpoint}/" in command:
        rule = "names a place inside of the checkpoint, which holds what its checksums say and nothing else"
        return [Problem(OPTION, command, rule, f"write beside it, {FORM}")]
    if "{step}" not in command and ("--out" in command or command.split()[0] == "export"):
        rule = "would write all checkpoints' results to the same place"
        return [Problem(OPTION, command, rule, f"put {{step}} into it, {FORM}")]
    return []
