"""A run that is interrupted and continued by the same command is the uninterrupted one, to the last bit."""

import re
import signal
from pathlib import Path

import pytest
from ranks import metrics
from torture import Torture

from armd_dist.checkpoint.compare import compare_tensors
from armd_dist.checkpoint.folder import complete_checkpoints
from armd_dist.heartbeat import Heartbeat
from data_pipeline.audit import audit
from data_pipeline.ledger import attempts

STOPPED = 75
# Short steps, and a checkpoint behind every second one, which takes longer to write than a step.
OFTEN = ["checkpoint.every=2", "checkpoint.keep=2", "data.ledger=true", "parallel.timeout_minutes=1"]
OFTEN += ["training.ema_decay=0.6"]


def curve(folder: Path) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in metrics(folder)]


def consumed(folder: Path) -> list[str]:
    """What counts in the ledger: of each rank the last line of every step, in the steps' sequence."""
    lines: dict[tuple[str, str], str] = {}
    for attempt in attempts(folder):
        for file in sorted(attempt.glob("rank-*")):
            for text in file.read_text().splitlines():
                lines[text.partition(",")[0], file.name] = text
    return sorted(lines.values())


def assert_equal(broken: Path, whole: Path, steps: int) -> None:
    assert curve(broken) == curve(whole)
    assert len(curve(broken)) == steps
    last = [complete_checkpoints(folder)[-1] for folder in (whole, broken)]
    assert [path.name for path in last] == [f"step-{steps:08d}"] * 2
    assert compare_tensors(*last) == []
    found = [audit(folder, steps) for folder in (whole, broken)]
    assert not found[0].problems
    assert not found[1].problems
    assert found[0].by_dataset == found[1].by_dataset
    assert consumed(broken) == consumed(whole)


def heartbeat(folder: Path) -> Heartbeat:
    found = Heartbeat.read(folder)
    assert found is not None
    return found


def begin(tiny_config: Path, folder: Path, steps: int, overrides: list[str]) -> tuple[Torture, Path]:
    """The job that will be interrupted, and the folder of the same one, done."""
    words = ["train", tiny_config, f"training.steps={steps}", *OFTEN, *overrides]
    whole, broken = folder / "whole", folder / "broken"
    assert Torture([*words, f"run.dir={whole}"], whole, 0).finish() == [0, 0]
    return Torture([*words, f"run.dir={broken}"], broken, seed=0), whole


def test_interrupted_run_continues_exactly(tiny_config: Path, tmp_path: Path) -> None:
    job, whole = begin(tiny_config, tmp_path, 60, ["parallel.zero_stage=1"])
    job.ask(signal.SIGTERM, rank=1, again=signal.SIGUSR2)
    assert job.report.codes == [{STOPPED}]
    assert job.report.repeated == 0
    assert "SIGTERM: stopped after step" in (tmp_path / "broken.log").read_text()
    stopped = heartbeat(tmp_path / "broken")
    assert (stopped.state, stopped.reason, stopped.first_step) == ("stopped", "SIGTERM", 0)
    assert stopped.step == len(curve(tmp_path / "broken"))
    job.kill()
    assert heartbeat(tmp_path / "broken").state == "running"
    assert heartbeat(tmp_path / "broken").first_step == stopped.step
    job.kill(ranks=(1,))
    assert job.report.codes[1:] == [{-9}, {-9, 3}]
    assert re.match(r"rank 1 \(.+\) died", heartbeat(tmp_path / "broken").reason or "")
    assert job.finish() == [0, 0]
    finished = heartbeat(tmp_path / "broken")
    assert (finished.state, finished.reason, finished.step, finished.stop_at) == ("finished", None, 60, 60)
    assert finished.loss == curve(whole)[-1]["loss"]
    assert_equal(tmp_path / "broken", whole, 60)


@pytest.mark.grid
@pytest.mark.parametrize(
    "overrides",
    [
        ["parallel.tensor=2"],
        ["parallel.zero_stage=3"],
        ["parallel.tensor=2", "parallel.sequence=true", "parallel.recompute=full", "model.hidden_dropout=0.1"],
        ["parallel.zero_stage=2", "parallel.offload_optimizer=true"],
    ],
    ids=["tensor_2", "zero_3", "sequence_recompute_dropout", "zero_2_offload"],
)
def test_other_layouts_continue_exactly(overrides: list[str], tiny_config: Path, tmp_path: Path) -> None:
    job, whole = begin(tiny_config, tmp_path, 30, overrides)
    job.kill()
    job.ask(signal.SIGUSR1, rank=0)
    assert job.finish() == [0, 0]
    assert_equal(tmp_path / "broken", whole, 30)


@pytest.mark.torture
def test_fifty_kills(tiny_config: Path, tmp_path: Path) -> None:
    """Every fifth kill takes one process, the others both."""
    job, whole = begin(tiny_config, tmp_path, 200, ["parallel.zero_stage=1"])
    for number in range(50):
        job.kill(ranks=(number % 2,) if number % 5 == 4 else (0, 1))
        print(f"{job.report}, at step {len(metrics(tmp_path / 'broken'))} of 200", flush=True)
    assert job.finish() == [0, 0]
    assert_equal(tmp_path / "broken", whole, 200)
    assert job.report.while_saving >= 10
