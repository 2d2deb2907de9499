"""A checkpoint of any topology goes on on any other: not a bit is lost by loading, and the next losses are those of the
uninterrupted run. On other processes, other stages of ZeRO, virtual stages and the other precision."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import BF16, DEEP, PIPELINE, TENSOR, VIRTUAL, zero
from layouts import make_run
from ranks import TESTS, environment

from armd_dist.export.files import plan_files
from armd_dist.export.weights import PREFIX, Source, exported_shapes, write_weights

TOLERANCE = 1e-5  # nats, in fp32
# bf16 keeps 8 bits of each weight for the forward pass; masters and moments stay fp32. test_grid.py's tolerance.
BF16_TOLERANCE = 0.01
TIMEOUT_SECONDS = 1200

# name: (processes, settings)
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, DEEP),
    "data_2_zero_2": (2, DEEP | zero(2)),
    "tensor_2_pipeline_2_zero_1": (4, DEEP | TENSOR | PIPELINE | zero(1)),
    "pipeline_2_data_2_zero_1": (4, DEEP | PIPELINE | zero(1)),
    "tensor_4": (4, DEEP | {"parallel.tensor": 4}),
    "data_2_zero_3": (2, DEEP | zero(3)),
    "data_4_zero_3": (4, DEEP | zero(3)),
    "virtual_2_data_2_zero_2": (4, VIRTUAL | zero(2)),
    "virtual_2_tensor_2": (4, VIRTUAL | TENSOR),
    "data_2_zero_2_bf16": (2, DEEP | zero(2) | BF16),
    "pipeline_2_data_2_zero_1_bf16": (4, DEEP | PIPELINE | zero(1) | BF16),
}
HUB = "tensor_2_pipeline_2_zero_1"
SPOKES = ("one", "data_2_zero_2", "data_2_zero_2_bf16", "data_2_zero_3", "pipeline_2_data_2_zero_1", "tensor_4")
BACK = ("one", "data_2_zero_2")
PAIRS = [f"{source}_to_{target}" for source, target in product(LAYOUTS, LAYOUTS)]

Found = dict[str, dict[str, Any]]
Job = tuple[str, str, str | None, int]  # name, layout, the checkpoint to start from, legs


def relay(rounds: list[list[Job]], out: Path) -> Found:
    """Runs the jobs of each round, the layouts of equally many processes together."""
    starts = []
    for jobs in rounds:
        for world in sorted({LAYOUTS[layout][0] for _, layout, _, _ in jobs}):
            own = [(name, LAYOUTS[at][1], source, legs) for name, at, source, legs in jobs if LAYOUTS[at][0] == world]
            starts.append((world, own))
    script = [sys.executable, str(Path(__file__).with_name("topologies.py")), json.dumps(starts), str(out)]
    path = ":".join(map(str, (TESTS.parent, TESTS)))
    done = subprocess.run(
        script, env={**environment(), "PYTHONPATH": path}, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return {name: torch.load(out / f"{name}.pt") for jobs in rounds for name, *_ in jobs}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel's checkpoints are."""
    return tmp_path_factory.mktemp("wheel")


@pytest.fixture(scope="session")
def wheel(folder: Path) -> Found:
    """From the hub at step 10 to each spoke, and from some of them, at step 20, back to the hub."""
    there: list[Job] = [(name, name, f"{HUB}-10", 1) for name in SPOKES]
    back: list[Job] = [(f"{name}_back", HUB, f"{name}-20", 1) for name in BACK]
    rounds: list[list[Job]] = [[("whole", "one", None, 3), (HUB, HUB, None, 1)], there, back]
    return relay(rounds, folder)


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """From every layout at step 10 to every layout."""
    first: list[Job] = [("whole", "one", None, 2), *((name, name, None, 1) for name in LAYOUTS)]
    pairs: list[Job] = [(f"{source}_to_{at}", at, f"{source}-10", 1) for source, at in product(LAYOUTS, LAYOUTS)]
    return relay([first, pairs], tmp_path_factory.mktemp("table"))


def goes_on(found: dict[str, Any], whole: dict[str, Any], tolerance: float) -> None:
    assert found["differing"] == [], "what was loaded is not what was saved"
    first, losses = found["first"], found["losses"]
    torch.testing.assert_close(losses, whole["losses"][first : first + len(losses)], rtol=0, atol=tolerance)


@pytest.mark.parametrize(("name", "first"), [*((at, 10) for at in SPOKES), *((f"{at}_back", 20) for at in BACK)])
def test_another_topology_goes_on(name: str, first: int, wheel: Found) -> None:
    assert wheel[name]["first"] == first
    goes_on(wheel[name], wheel["whole"], BF16_TOLERANCE if "bf16" in name else TOLERANCE)


def test_every_topology_exports_the_same_bytes(wheel: Found, folder: Path) -> None:
    """One state, saved by each spoke as it had loaded it from the hub."""
    config = make_run(DEEP).model
    files = plan_files(
        {f"{PREFIX}{name}": shape for name, shape in exported_shapes(config).items()}, torch.bfloat16, 20_000
    )
    assert len(files) > 2
    found = {}
    for name in (f"{HUB}-10", *(f"{spoke}-again" for spoke in SPOKES)):
        out = folder / f"export-of-{name}"
        out.mkdir()
        write_weights(Source.of(folder / name, False, config), files, out)
        found[name] = {file.name: file.read_bytes() for file in out.iterdir()}
    assert all(content == found[f"{HUB}-10"] for content in found.values())
    assert len(found) == 1 + len(SPOKES)


@pytest.mark.grid
@pytest.mark.parametrize("pair", PAIRS)
def test_every_topology_goes_on_from_every_other(pair: str, table: Found) -> None:
    goes_on(table[pair], table["whole"], BF16_TOLERANCE if "bf16" in pair else TOLERANCE)
