"""A learned order's heads at learning rates of their own, and what a step tells of it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from grid import LEARNED
from layouts import Trainer, make_run, micro_batches
from megatron.core import parallel_state
from ranks import armd, metrics

from armd_dist.model.initialization import initial_value
from armd_dist.model.learned_order import LearnedOrderDenoiser
from armd_dist.objectives.learned_order import OrderBatch
from armd_dist.parallel.topology import start, stop

RATE = 3e-3 / 4  # of the first step, which warms up


COMMAND = [
    "model.network=denoiser",
    "model.learned_order=true",
    "orders.strided_from=null",
    "training.stop_at=3",
    "parallel.tensor=2",
]


@pytest.fixture(scope="module")
def run_of_two(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned") / "run"
    done = armd("train", tiny_config, f"run.dir={folder}", *COMMAND, processes=2)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_says_how_its_order_fares(run_of_two: Path) -> None:
    for line in metrics(run_of_two):
        assert line["phase"] == "learned_order"
        told = line["learned_order"]
        assert told["token_nats"] + told["order_nats"] == pytest.approx(line["loss"], abs=1e-9)
        assert min(told["forward_spread"], told["reverse_spread"], told["masking_variance"]) > 0


def test_both_bounds_are_evaluated_on_one_process_and_on_two(run_of_two: Path, dataset: Path, tmp_path: Path) -> None:
    asked = ["eval", run_of_two, "--data", dataset / "held_out", "--windows", 6, "--random-orders", 3]
    found = {}
    for processes, layout in ((None, []), (2, ["--tensor-parallel", 2])):
        out = tmp_path / str(processes)
        done = armd(*asked, *layout, "--out", out, processes=processes)
        assert done.returncode == 0, done.stderr
        found[processes] = json.loads((out / "evaluation.json").read_text())["perplexity"]
    for name in ("learned_order", "order_form"):
        assert found[2][name]["value"] == pytest.approx(found[None][name]["value"], rel=1e-5)
        assert found[None][name]["draws"] == 3
        assert 0 < found[None][name]["draw_error"] < 0.2
    assert found[None]["order_form"]["value"] < found[None]["learned_order"]["value"] < 420


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainer]:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    run = make_run(LEARNED)
    start(run.parallel)
    parallel_state.destroy_model_parallel()  # the trainer arranges its own
    trainer = Trainer(LEARNED)
    yield trainer
    trainer.close()
    stop()


def test_a_step(trainer: Trainer) -> None:
    """Adam's first step is the learning rate, whatever the gradient: so it tells each head's own."""
    engine, run = trainer.engine, trainer.run
    network, parts = engine.part.networks[0], micro_batches(run, 0, 0, 1)
    assert isinstance(network, LearnedOrderDenoiser)
    wanted = [part.loss(network) for part in parts]
    result = engine.train_step(parts, RATE)
    assert result.loss == pytest.approx(sum(loss.nll.item() for loss in wanted) / len(wanted), abs=1e-6)
    for name, value in result.figures.items():
        assert value == pytest.approx(sum(loss.figures[name].item() for loss in wanted) / len(wanted), rel=1e-5)
    assert result.figures["token_nats"] + result.figures["order_nats"] == pytest.approx(result.loss, abs=1e-6)
    moved = {"forward_order": 0.0, "reverse_order": 0.0, "": 0.0}
    for name, weight in network.named_parameters():
        before = initial_value(name, tuple(weight.shape), run.model, run.training.seed)
        room = name.split(".")[0] if "_order." in name else ""
        moved[room] = max(moved[room], (weight.detach() - before).abs().max().item())
    assert moved == pytest.approx({"forward_order": 0.5 * RATE, "reverse_order": 2 * RATE, "": RATE}, rel=0.1)


def test_every_sample_draws_its_own_and_two_independent_maskings() -> None:
    run = make_run(LEARNED)
    alone, both = (micro_batches(run, step, 0, 1)[0] for step in (0, 0))
    other = micro_batches(run, 1, 0, 1)[0]
    assert isinstance(alone, OrderBatch)
    assert isinstance(both, OrderBatch)
    assert isinstance(other, OrderBatch)
    assert torch.equal(alone.noise[0], both.noise[0])
    assert not torch.equal(alone.noise[0], alone.noise[1])
    assert not torch.equal(alone.noise[0], other.noise[0])
    assert not torch.equal(alone.share, other.share)
