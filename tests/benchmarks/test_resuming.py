"""Finished work is skipped, interrupted work goes on, other settings are refused, and nothing is left running."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import workers as workers_module
from experiment import BenchmarkError, Evaluation, Folder, Job, last_step, train_loss, training_files, write_json
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


def metrics(run: Path, steps: int) -> Path:
    """Step n has loss n."""
    file = run / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": step, "loss": step}) + "\n" for step in range(1, steps + 1)))
    return file


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
            metrics(folder.run_dir(name), 4)
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
    metrics(folder.run_dir("one"), 4)
    Workers(folder, 1).run([job()])
    assert said == ["eval one"]


def test_chosen_trial_is_evaluated_and_not_trained_again(folder: Folder, said: list[str]) -> None:
    trial = Workers(folder, 1).run([job(evaluations=())])["one"]
    assert said == ["train one"]
    assert trial["train_loss"] == 4
    chosen = Workers(folder, 1).run([job()])["one"]
    assert said == ["train one", "eval one"]
    assert "held_out" in chosen
    assert "held_out" not in trial
    assert Workers(folder, 1).run([job(evaluations=())])["one"] == trial
    assert said == ["train one", "eval one"]


def test_results_of_other_settings_are_refused(folder: Folder, said: list[str]) -> None:
    Workers(folder, 1).run([job()])
    with pytest.raises(BenchmarkError, match="other settings"):
        Workers(folder, 1).run([job(overrides=("a=2",))])
    with pytest.raises(BenchmarkError, match="other settings"):
        Workers(folder, 1).run([job(evaluations=(Evaluation("held_out", "1", 3, 5),))])
    with pytest.raises(BenchmarkError, match="other settings"):
        Workers(folder, 1).run([job(resolved={"training": {"clip_grad": 1.0}})])


def test_continuation_names_its_predecessor_also_when_it_goes_on(folder: Folder) -> None:
    """The same command goes on with what it has saved itself: tests/training/test_run_folder.py."""
    later = job("two", after="one", first=2)
    start = f"checkpoint.resume={step_folder(folder.run_dir('one'), 2)}"
    assert folder.train_command(later)[-1] == start
    checkpoint(folder, "two", 3)
    assert folder.train_command(later)[-1] == start
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


def test_training_loss_is_that_of_the_last_tenth(tmp_path: Path) -> None:
    file = metrics(tmp_path, 40)
    assert train_loss(file, 0, 40) == (37 + 38 + 39 + 40) / 4
    assert train_loss(file, 20, 40) == (39 + 40) / 2
    assert train_loss(file, 0, 4) == 4
    with pytest.raises(BenchmarkError, match="lacks steps"):
        train_loss(file, 0, 41)


def test_zero_shot_file_is_never_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "c.txt").symlink_to(tmp_path / "b.txt")
    monkeypatch.chdir(tmp_path)
    assert [path.name for path in training_files(tmp_path, Path("b.txt"))] == ["a.txt"]
    assert [path.name for path in training_files(Path("."), tmp_path / "x" / ".." / "b.txt")] == ["a.txt"]
    assert len(training_files(tmp_path, None)) == 3
