"""The ledger of real runs: a crash and other processes leave every sample of the steps that count exactly once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from numbered import numbered_dataset
from ranks import armd, kill_when, metrics

from data_pipeline.audit import audit
from data_pipeline.ledger import attempts

MIX = "data.mixture=[{{path: {0}/many, weight: {{0: 3, 100: 1}}}}, {{path: {0}/few, weight: {{0: 0, 40: 1}}}}]"


@pytest.fixture(scope="module")
def runs(tiny_config: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of 30 steps in one go, and one killed at step 13, continued by 2 processes and stopped at 20, then by one.

    Checkpoints stand at 10, 20, 30. 8 samples a step; both datasets pass epoch edges.
    """
    base = tmp_path_factory.mktemp("ledger")
    numbered_dataset(base / "many", 384, vocab=400)
    numbered_dataset(base / "few", 200, first=100, vocab=400)
    config = base / "mixture.yaml"
    config.write_text(
        tiny_config.read_text().replace(f"path: {dataset / 'train'}, ", "").replace("steps: 20", "steps: 30")
    )
    settings: list[object] = ["train", config, MIX.format(base), "data.ledger=true", "checkpoint.every=10"]
    settings += ["model.num_layers=2", "model.two_stream_layers=1"]
    whole, broken = base / "whole", base / "broken"
    jobs: list[tuple[list[object], int | None]] = [
        ([f"run.dir={whole}"], None),
        ([f"run.dir={broken}", "training.micro_batch_size=4", "training.stop_at=20"], 2),
        ([f"run.dir={broken}", "training.micro_batch_size=1"], None),
    ]
    saved = broken / "checkpoints" / "step-00000010"
    kill_when([*settings, f"run.dir={broken}"], broken / "metrics.jsonl", step=13, processes=1, exists=saved)
    for overrides, processes in jobs:
        done = armd(*settings, *overrides, processes=processes)
        assert done.returncode == 0, done.stderr
    return whole, broken


@pytest.fixture
def copy(runs: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs[1], tmp_path / "run"))


def consumed(folder: Path) -> dict[int, dict[str, list[int]]]:
    """{step: {dataset/epoch: windows}} of the steps that count, all ranks together: the last line of a step counts."""
    steps: dict[int, dict[str, list[int]]] = {}
    for attempt in attempts(folder):
        lines = [json.loads(text) for file in sorted(attempt.glob("rank-*")) for text in file.read_text().splitlines()]
        for step in {line["step"] for line in lines}:
            steps[step] = {}
        for line in lines:
            for key, windows in line["samples"].items():
                steps[line["step"]].setdefault(key, []).extend(windows)
    return {step: {key: sorted(windows) for key, windows in found.items()} for step, found in steps.items()}


def test_another_layout_consumes_the_same_samples(runs: tuple[Path, Path]) -> None:
    whole, broken = (consumed(folder) for folder in runs)
    assert sorted(whole) == list(range(1, 31))
    assert broken == whole
    lines = [metrics(folder) for folder in runs]
    assert [line["datasets"] for line in lines[0]] == [line["datasets"] for line in lines[1]]
    counts = lines[0][-1]["datasets"]
    assert sum(one["samples"] for one in counts.values()) == 240
    assert min(one["epochs"] for one in counts.values()) > 2
    losses = [[line["loss"] for line in part] for part in lines]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_the_ledger_proves_it(runs: tuple[Path, Path]) -> None:
    done = armd("data", "ledger", runs[1])
    assert done.returncode == 0, done.stderr
    assert "steps 1 to 30: 240 samples, each consumed exactly once" in done.stdout
    assert "attempt-000001: 1 rank(s), steps 1 to 1" in done.stdout
    assert "1 to 10 count" in done.stdout
    assert "attempt-000002: 2 rank(s), steps 11 to 20; 11 to 20 count" in done.stdout
    assert "attempt-000003: 1 rank(s), steps 21 to 30; 21 to 30 count" in done.stdout


def rewrite(change: Callable[[dict], dict | None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "ledger" / "attempt-000002" / "rank-00001.jsonl"
        lines = [change(json.loads(line)) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines if line is not None))

    return apply


def repeat(line: dict) -> dict:
    key = next(iter(line["samples"]))
    if line["step"] == 15:
        line["samples"][key][0] = line["samples"][key][1]
    return line


BROKEN = {
    "repeated": (rewrite(repeat), "was consumed before"),
    "lost": (rewrite(lambda line: None if line["step"] == 15 else line), "step 15 counts, and rank(s) [1]"),
    "shifted": (rewrite(lambda line: {**line, "first": line["first"] + 1}), "are not the global batch, each once"),
    "rank": (lambda folder: next(folder.glob("ledger/*2/rank-00000.jsonl")).unlink(), "rank(s) [0] have no line"),
    "torn": (lambda folder: next(folder.glob("ledger/*2/rank-00000.jsonl")).write_text("{\n"), "line 1 is damaged"),
    "about": (lambda folder: next(folder.glob("ledger/*2/about.json")).write_text("{"), "the ledger is damaged"),
    "none": (lambda folder: shutil.rmtree(folder / "ledger"), "has no ledger; train with data.ledger=true"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_ledger_is_told(copy: Path, name: str) -> None:
    breaking, message = BROKEN[name]
    breaking(copy)
    done = armd("data", "ledger", copy)
    assert done.returncode == 2
    assert message in done.stderr


def test_steps_behind_the_checkpoint_do_not_count_yet(copy: Path) -> None:
    """As after a crash: the newest checkpoint is gone, and the last line is torn."""
    shutil.rmtree(copy / "checkpoints" / "step-00000030")
    with (copy / "ledger" / "attempt-000003" / "rank-00000.jsonl").open("a") as file:
        file.write('{"step": 31, "fi')
    result = audit(copy, saved=20)
    assert result.problems == []
    assert result.samples == 160
    assert (result.stretches[2].last, result.stretches[2].done) == (20, 30)
