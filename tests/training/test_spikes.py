"""What is told of losses that spike, and what is not."""

import json
import math
from pathlib import Path

import numpy as np

from armd_dist.training.spikes import WINDOW, Spikes

HERE = ("progressive", 4)


def noisy(count: int, level: float = 3.0) -> list[float]:
    return (level + 0.05 * np.random.default_rng(1).standard_normal(count)).tolist()


def test_one_high_loss_is_told_and_does_not_hide_the_next() -> None:
    spikes = Spikes(10.0)
    assert [spikes.note(HERE, loss) for loss in noisy(1000)] == [None] * 1000
    assert spikes.note(HERE, 3.4) is None
    for _ in range(2):
        told = spikes.note(HERE, 3.8)
        assert told is not None
        assert told.startswith(f"loss=3.8000 is a spike: the last {WINDOW} were 2.99")
    assert spikes.note(HERE, 2.0) is None
    assert spikes.note(HERE, 3.0) is None


def test_a_loss_that_stays_up_becomes_usual() -> None:
    spikes = Spikes(10.0)
    told = [spikes.note(HERE, loss) is not None for loss in noisy(WINDOW) + noisy(2 * WINDOW, 5.0)]
    assert all(told[WINDOW : WINDOW + 32])
    assert not any(told[-WINDOW:])


def test_the_curriculum_may_raise_the_loss() -> None:
    spikes = Spikes(10.0)
    told = [spikes.note(HERE, loss) for loss in noisy(WINDOW)]
    told += [spikes.note(("progressive", 8), loss) for loss in noisy(WINDOW, 5.0)]
    assert told == [None] * (2 * WINDOW)
    assert spikes.note(("progressive", 8), 8.0) is not None


def test_equal_losses_are_no_measure() -> None:
    spikes = Spikes(10.0)
    assert [spikes.note(HERE, loss) for loss in [3.0] * WINDOW + [3.02]] == [None] * (WINDOW + 1)
    assert spikes.note(HERE, 3.04) is not None


def test_it_goes_on_from_the_metrics_as_it_stood(tmp_path: Path) -> None:
    """A skipped step has no loss in metrics.jsonl; the window reaches further back by as much."""
    file, spikes = tmp_path / "metrics.jsonl", Spikes(10.0)
    losses = [9.0, *noisy(WINDOW), math.nan, *noisy(WINDOW // 2, 3.1), math.inf]
    positions = [("left_to_right", 1)] * 20 + [HERE] * (len(losses) - 20)
    lines = []
    for position, loss in zip(positions, losses, strict=True):
        lines.append({"phase": position[0], "rho": position[1], **({"loss": loss} if math.isfinite(loss) else {})})
        spikes.note(position, loss)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        again = Spikes.from_metrics(10.0, file)
        assert (again.position, list(again.losses)) == (spikes.position, list(spikes.losses))
    assert len(spikes.losses) == WINDOW
    file.write_text("")
    assert Spikes.from_metrics(10.0, file).position is None
