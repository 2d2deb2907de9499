"""Finished work is skipped, interrupted work goes on, other settings are refused, and nothing is left running."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import workers as workers_module
from experiment import BenchmarkError, Evaluation, Folder, Job, last_step, write_json
from workers import Workers

from armd_dist.checkpoint.folder import COMPLETE, step_folder

HELD_OUT = Evaluation("held_out", "1,2", 3, 5)


def job(name: str = "one", **changes: Any) -> Job:
    return Job(**{"name": name, "overrides": ("a=1",), "steps": 4, "evaluations": (HELD_OUT,), **changes})


def checkpoint(folder: Folder, name: str, step: int) -> Path:
    found = step_folder(folder.run_dir(name), step)
    found.mkdir(parents=True)
    (found / COMPLETE).touch()
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "out", tmp_path / "preset.yaml")


@pytest.fixture
def said(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands instead of being run; training leaves a checkpoint, evaluation a file."""
    seen: list[str] = []

    def command(self: Workers, name: str, words: list[str]) -> None:
        seen.append(f"{words[0]} {name}")
        if words[0] == "train":
            checkpoint(folder, name, 4)
        else:
            write_json(folder.run_dir(name) / "held_out" / "evaluation.json", {"perplexity": {"left_to_right": 7}})

    monkeypatch.setattr(Workers, "command", command)
    return seen


def test_finished_runs_are_not_done_again(folder: Folder, said: list[str]) -> None:
    first = Workers(folder, 1).run([job("one"), job("two")])
    assert sorted(said) == ["eval one", "eval two", "train one", "train two"]
    assert first["one"]["held_out"] == {"left_to_right": 7}
    said.clear()
    assert Workers(folder, 1).run([job("one"), job("two"), job("three")])["one"] == first["one"]
    assert said == ["train three", "eval three"]


def test_trained_run_without_result_is_evaluated_alone(folder: Folder, said: list[str]) -> None:
    checkpoint(folder, "one", 4)
    Workers(folder, 1).run([job()])
    assert said == ["eval one"]


def test_results_of_other_settings_are_refused(folder: Folder, said: list[str]) -> None:
    Workers(folder, 1).run([job()])
    with pytest.raises(BenchmarkError, match="other settings"):
        Workers(folder, 1).run([job(overrides=("a=2",))])
    with pytest.raises(BenchmarkError, match="other settings"):
        Workers(folder, 1).run([job(evaluations=())])


def test_continuation_starts_from_its_predecessor_and_then_from_itself(folder: Folder) -> None:
    later = job("two", after="one", first=2)
    start = f"checkpoint.resume={step_folder(folder.run_dir('one'), 2)}"
    assert folder.train_command(later)[-1] == start
    checkpoint(folder, "two", 3)
    assert start not in folder.train_command(later)
    assert not [word for word in folder.train_command(job()) if word.startswith("checkpoint.resume")]


def test_denoiser_is_evaluated_without_streams(folder: Folder) -> None:
    words = folder.eval_command(job(), Evaluation("zero_shot", None, 3, None))
    assert "--streams" not in words
    assert "--windows" not in words
    assert words[words.index("--random-orders") + 1] == "3"
    assert words[words.index("--data") + 1] == str(folder.out / "data" / "zero_shot" / "train")


def test_failed_run_says_why_and_stops_the_others(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`python -m armd_dist` is stood in for by a script: one run fails at once while the other would sleep on."""
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\ncase "$*" in *bad*) echo the reason; exit 3;; *) exec sleep 60;; esac\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(workers_module, "POLL_SECONDS", 0.05)
    workers = Workers(folder, 2)
    with pytest.raises(BenchmarkError, match=r"bad: armd train ended with 3(.|\n)*the reason"):
        workers.run([job("good"), job("bad")])
    assert not workers.live
    assert not folder.result("good").exists()


def test_last_step_ignores_a_half_written_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert last_step(file) == 0
    file.write_text(
        "".join(json.dumps({"step": step, "pad": "x" * 300}) + "\n" for step in range(1, 40)) + '{"step": 40'
    )
    assert last_step(file) == 39
