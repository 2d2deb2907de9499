"""Stopped and continued on other processes, with another micro-batch: the global batches stay what they were."""

import hashlib
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numbered import numbered_dataset

from armd_dist.run import Run
from armd_dist.training.batches import Batches
from armd_dist.training.start import open_data

LENGTH, BATCH, STEPS = 8, 24, 30
WEIGHTS = ({0: 3, 300: 1}, {0: 1, 120: 2}, {0: 0, 200: 4})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Windows: 250, 60 and 100; the steps pass two epoch edges of each that is read alone or in the mixture."""
    base = tmp_path_factory.mktemp("elastic")
    sizes = ((250, 0), (60, 5000), (100, 9000))
    return [str(numbered_dataset(base / str(first), n * LENGTH + 3, first=first)) for n, first in sizes]


def run_of(data: dict[str, Any], micro: int, network: str = "armd") -> Run:
    return Run.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"vocab_size": 1 << 17, "max_sequence_length": LENGTH, "network": network},
            "data": {"sequence_length": LENGTH, **data},
            "orders": {"left_to_right_steps": 4, "progressive_steps": 12, "rho_max": 4, "strided_from": 22},
            "training": {"steps": STEPS, "seed": 3, "global_batch_size": BATCH, "micro_batch_size": micro},
        }
    )


def data_of(kind: str, folders: list[str]) -> dict[str, Any]:
    if kind == "one":
        return {"path": folders[0]}
    return {"mixture": [{"path": path, "weight": weight} for path, weight in zip(folders, WEIGHTS, strict=True)]}


def hashes(run: Run, world: int, first: int, last: int) -> list[str]:
    """One hash a step: of the places of all samples, their tokens as revealed, and the places these stand at."""
    data = open_data(run)
    ranks = [Batches(run, data, rank, world) for rank in range(world)]
    drawn = [list(batches.from_step(first, last)) for batches in ranks]
    found = []
    for step in range(first, last):
        digest = hashlib.sha256()
        digest.update(np.stack(data.places(np.concatenate([batches.numbers(step) for batches in ranks]))).tobytes())
        parts = [part for rank in drawn for part in rank[step - first]]
        digest.update(np.concatenate([part.targets.numpy() for part in parts]).tobytes())
        if run.model.network == "armd":
            digest.update(np.concatenate([part.layout.query_positions.numpy() for part in parts]).tobytes())
        found.append(digest.hexdigest())
    return found


@pytest.mark.parametrize(("world", "micro"), [(1, 24), (2, 3), (3, 2), (4, 6), (8, 1)])
@pytest.mark.parametrize("kind", ["one", "mixture"])
def test_other_processes_go_on_with_the_same_batches(folders: list[str], kind: str, world: int, micro: int) -> None:
    data = data_of(kind, folders)
    whole = hashes(run_of(data, 4), 2, 0, STEPS)
    assert len(set(whole)) == STEPS
    assert hashes(run_of(data, micro), world, 10, STEPS) == whole[10:]
    edges = [one.epochs for one in open_data(run_of(data, 1)).consumed(STEPS * BATCH)]
    assert max(edges) > 2


def test_several_stops(folders: list[str]) -> None:
    data = data_of("mixture", folders)
    whole = hashes(run_of(data, 8, "denoiser"), 1, 0, STEPS)
    parts = [
        hashes(run_of(data, micro, "denoiser"), world, *ends)
        for (world, micro), ends in zip([(4, 1), (3, 4), (8, 3)], pairwise([0, 7, 19, STEPS]), strict=True)
    ]
    assert [step for part in parts for step in part] == whole
