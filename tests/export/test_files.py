"""Safetensors files as planned: what the library reads in them, how they are cut, and memory while they are written."""

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from torch._C._distributed_c10d import HashStore
from toys import tiny_config

from armd_dist.checkpoint.pieces import Piece
from armd_dist.checkpoint.writing import write_tensors
from armd_dist.errors import ConfigError, ExportError
from armd_dist.export import weights
from armd_dist.export.files import INDEX, parse_size, plan_files
from armd_dist.export.weights import PREFIX, Source, exported_shapes, write_weights
from armd_dist.model.config import ModelConfig


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Path]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield tmp_path
    dist.destroy_process_group()


def save(folder: Path, config: ModelConfig, fill: float | None = None) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors, with the vocabulary's padding; returned without it."""
    written = {}
    for name, shape in exported_shapes(config).items():
        rows = config.padded_vocab_size if name in weights.VOCABULARY else shape[0]
        written[name] = torch.randn(rows, *shape[1:]) if fill is None else torch.full((rows, *shape[1:]), fill)
    write_tensors(folder, {f"weight/{name}": Piece.of_whole(tensor) for name, tensor in written.items()})
    return {name: written[name][: shape[0]] for name, shape in exported_shapes(config).items()}


def export(folder: Path, config: ModelConfig, dtype: torch.dtype = torch.float32, largest: int = 10**9) -> list[str]:
    """Names of the files in FOLDER/out."""
    shapes = {f"{PREFIX}{name}": shape for name, shape in exported_shapes(config).items()}
    files = plan_files(shapes, dtype, largest)
    (folder / "out").mkdir()
    told: list[int] = []
    write_weights(Source.of(folder, False, config), files, folder / "out", told.append)
    assert sum(told) == sum(file.data_bytes for file in files)
    return [file.name for file in files]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_library_reads_what_was_saved(dtype: torch.dtype, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of a row and of several, so that they end anywhere; the head is not tied, the vocabulary padded."""
    monkeypatch.setattr(weights, "BLOCK_BYTES", 200)
    config = tiny_config(activation="swiglu", qk_norm=True)
    wanted = save(alone, config)
    largest = 6000
    names = export(alone, config, dtype, largest)
    places = json.loads((alone / "out" / INDEX).read_text())
    found = {}
    for name in names:
        with safe_open(alone / "out" / name, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            here = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no mapping
        assert len(here) == 1 or sum(tensor.nbytes for tensor in here.values()) <= largest
        assert all(places["weight_map"][key] == name for key in here)
        found |= here
    assert found.keys() == {f"{PREFIX}{name}" for name in wanted} == places["weight_map"].keys()
    assert places["metadata"]["total_size"] == sum(tensor.nbytes for tensor in found.values())
    for name, tensor in wanted.items():
        assert torch.equal(found[PREFIX + name], tensor.to(dtype)), name
    assert len(names) > 2


def test_one_file_has_no_index(alone: Path) -> None:
    save(alone, tiny_config())
    assert export(alone, tiny_config()) == ["model.safetensors"]
    assert not (alone / "out" / INDEX).exists()


def test_memory_is_some_rows_of_one_tensor(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel counts it; the largest tensor has 64 MB, all of them 140."""
    monkeypatch.setattr(weights, "BLOCK_BYTES", 1 << 20)
    config = tiny_config(vocab_size=8000, hidden_size=2048, num_layers=1, ffn_hidden_size=64, two_stream_layers=0)
    save(alone, config, fill=0.5)
    process = psutil.Process()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    resident = process.memory_info().rss
    export(alone, config)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) * 1024 - resident < 32e6


@pytest.mark.parametrize(
    ("value", "dtype", "problem"),
    [
        (1e6, torch.float16, r"--dtype float16: cannot hold 1e\+06 in armd\.tokens\.weight; use --dtype bfloat16"),
        (float("nan"), torch.float32, r"armd\.tokens\.weight: has values that are not finite"),
    ],
    ids=["large", "lost"],
)
def test_values_that_no_file_can_hold_are_told(value: float, dtype: torch.dtype, problem: str, alone: Path) -> None:
    save(alone, tiny_config(), fill=value)
    with pytest.raises(ExportError, match=problem):
        export(alone, tiny_config(), dtype)


def test_sizes() -> None:
    assert [parse_size(text) for text in ("5GB", "500 mb", "1.5KB", "77")] == [5 * 10**9, 5 * 10**8, 1500, 77]
    for text in ("", "GB", "-5GB", "5 pounds", "0", "5GiB", "0.5", "7B"):
        with pytest.raises(ConfigError, match=rf"--max-shard-size={text}: is no size of a file; write 5GB"):
            parse_size(text)
