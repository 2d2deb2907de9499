"""A learned order's heads at learning rates of their own, and what a step tells of it."""

from collections.abc import Iterator

import pytest
import torch
from grid import LEARNED
from layouts import Trainer, make_run, micro_batches
from megatron.core import parallel_state

from armd_dist.model.initialization import initial_value
from armd_dist.model.learned_order import LearnedOrderDenoiser
from armd_dist.objectives.learned_order import OrderBatch
from armd_dist.parallel.topology import start, stop

RATE = 3e-3 / 4  # of the first step, which warms up


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
