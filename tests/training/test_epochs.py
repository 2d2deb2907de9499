"""Whatever the number of processes, an epoch is every window once: told from the tokens that training gets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered import numbered_dataset

from armd_dist.run import Run
from armd_dist.training.batches import Batches
from armd_dist.training.start import open_data

LENGTH, WINDOWS, BATCH, EPOCHS = 8, 101, 24, 3
WORLDS = [1, 2, 3, 4, 8]
Draw = Callable[[Batches, int], list[Any]]


def one_by_one(batches: Batches, steps: int) -> list[Any]:
    return [batches.at(step) for step in range(steps)]


def drawn_ahead(batches: Batches, steps: int) -> list[Any]:
    return list(batches.from_step(0, steps))


WORKERS: dict[str, Draw] = {"workers_0": one_by_one, "workers_1": drawn_ahead}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WINDOWS windows and a rest: no number of processes divides them, no shard ends at a window."""
    return numbered_dataset(tmp_path_factory.mktemp("numbered") / "data", WINDOWS * LENGTH + 5)


def run_of(folder: Path, seed: int = 0, network: str = "armd") -> Run:
    return Run.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"vocab_size": 1 << 17, "max_sequence_length": LENGTH, "network": network},
            "data": {"path": str(folder), "sequence_length": LENGTH},
            "orders": {"left_to_right_steps": 2, "progressive_steps": 4, "rho_max": 4},
            "training": {"steps": 100, "seed": seed, "global_batch_size": BATCH, "micro_batch_size": 1},
        }
    )


def windows_seen(run: Run, world: int, draw: Draw = one_by_one) -> np.ndarray:
    """Windows of the first epochs in the order of the global batches, [EPOCHS, windows of an epoch].

    A window is told by its lowest token, so that the order in which its tokens are revealed does not matter.
    """
    data = open_data(run)
    steps = -(-EPOCHS * WINDOWS // BATCH)
    ranks = [draw(Batches(run, data, rank, world), steps) for rank in range(world)]
    seen = []
    for step in range(steps):
        batch = np.concatenate([part.targets.numpy() for rank in ranks for part in rank[step]])
        assert batch.shape == (BATCH, LENGTH)
        seen.append(batch.min(axis=1) // LENGTH)
        np.testing.assert_array_equal(np.sort(batch, axis=1), seen[-1][:, None] * LENGTH + np.arange(LENGTH))
    return np.concatenate(seen)[: EPOCHS * WINDOWS].reshape(EPOCHS, -1)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("world", WORLDS)
def test_every_window_once_an_epoch(folder: Path, world: int, workers: str) -> None:
    epochs = windows_seen(run_of(folder), world, WORKERS[workers])
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(WINDOWS), (EPOCHS, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == EPOCHS
    np.testing.assert_array_equal(epochs, windows_seen(run_of(folder), 1))


def test_the_order_is_the_seeds(folder: Path) -> None:
    first, again, other = (windows_seen(run_of(folder, seed), 2) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert all(not np.array_equal(*pair) for pair in zip(first, other, strict=True))


def test_a_denoiser_sees_the_same_windows(folder: Path) -> None:
    np.testing.assert_array_equal(windows_seen(run_of(folder, network="denoiser"), 4), windows_seen(run_of(folder), 1))
