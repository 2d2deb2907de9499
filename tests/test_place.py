"""What a process of a job is told by its environment, and how it says that something is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks import anew, environment, free_port

from armd_dist.cli.place import PLACE, own_world_size
from armd_dist.errors import ConfigError
from armd_dist.parallel.topology import own_device

WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*PLACE, "LOCAL_RANK"):
        monkeypatch.setenv(name, "")  # so that what a test leaves there is taken away again
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("place", "size"),
    [({}, 1), ({"WORLD_SIZE": "1"}, 1), ({"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}, 1), (WHOLE, 2)],
)
def test_places_that_are_whole(place: dict[str, str], size: int, told: pytest.MonkeyPatch) -> None:
    for name, value in place.items():
        told.setenv(name, value)
    assert own_world_size() == size


@pytest.mark.parametrize(
    ("place", "problems"),
    [
        (
            {**WHOLE, "RANK": ""},
            [
                "RANK=: is not set, but WORLD_SIZE=2, MASTER_ADDR=127.0.0.1, MASTER_PORT=29500; "
                "set it to the number of this process, from 0, or start with torchrun"
            ],
        ),
        (
            {"RANK": "0"},
            ["WORLD_SIZE=: is not set, but RANK=0", "MASTER_ADDR=: is not set", "MASTER_PORT=: is not set"],
        ),
        ({**WHOLE, "RANK": "one"}, ["RANK=one: is not a whole number; set it to the number of this process, from 0"]),
        ({**WHOLE, "RANK": "2"}, ["RANK=2: is not below WORLD_SIZE=2; set it to the number of this process, from 0"]),
    ],
)
def test_places_that_are_not(place: dict[str, str], problems: list[str], told: pytest.MonkeyPatch) -> None:
    for name, value in place.items():
        told.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        own_world_size()
    found = [str(problem) for problem in raised.value.problems]
    assert len(found) == len(problems)
    assert all(one.startswith(wanted) for one, wanted in zip(found, problems, strict=True))


def see_gpus(told: pytest.MonkeyPatch, count: int) -> None:
    told.setattr(torch.cuda, "is_available", lambda: count > 0)
    told.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("place", "gpus", "device"),
    [
        (WHOLE, 0, "cpu"),
        (WHOLE | {"LOCAL_RANK": "5"}, 0, "cpu"),
        (WHOLE | {"LOCAL_RANK": "1"}, 2, "cuda:1"),
        ({}, 2, "cuda:0"),
    ],
)
def test_devices_of_places(place: dict[str, str], gpus: int, device: str, told: pytest.MonkeyPatch) -> None:
    see_gpus(told, gpus)
    for name, value in place.items():
        told.setenv(name, value)
    assert own_device() == torch.device(device)
    assert os.environ["LOCAL_RANK"] == place.get("LOCAL_RANK", "0"), "DeepSpeed must be told the same"


@pytest.mark.parametrize(
    ("local_rank", "problem"),
    [
        ("", "LOCAL_RANK=: is not set, but RANK=1, and there are GPUs; set it to the number of this process on its"),
        ("one", "LOCAL_RANK=one: is not a whole number; set it to"),
        ("2", "LOCAL_RANK=2: is not below 2, the number of GPUs that this process sees; set it to"),
    ],
)
def test_local_ranks_that_name_no_gpu(local_rank: str, problem: str, told: pytest.MonkeyPatch) -> None:
    see_gpus(told, 2)
    for name, value in (WHOLE | {"LOCAL_RANK": local_rank}).items():
        told.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        own_device()
    assert str(raised.value).startswith(problem)


def test_a_process_started_by_hand_on_cpu_needs_no_local_rank(tiny_config: Path, tmp_path: Path) -> None:
    place = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words = [sys.executable, "-m", "armd_dist", "train", tiny_config, f"run.dir={tmp_path}", "training.stop_at=1"]
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, env=environment() | place | hidden, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_torchrun_ends_with_the_reason(tmp_path: Path) -> None:
    """First, once and without a traceback of ours; and again where torchrun says which process failed."""
    missing = tmp_path / "missing.yaml"
    done = anew("train", missing, processes=2)
    assert done.returncode == 1
    said = done.stderr.splitlines()
    (line,) = [line for line in said if line.startswith("error:")]
    assert str(missing) in line
    assert "armd_dist/" not in done.stderr
    assert line.removeprefix("error: ") in done.stderr.partition("Root Cause")[2]


@pytest.mark.parametrize("local_rank", ["0", "1"])
def test_one_process_of_each_machine_speaks(local_rank: str, tmp_path: Path) -> None:
    reason = tmp_path / "reason.json"
    place = WHOLE | {"LOCAL_RANK": local_rank, "TORCHELASTIC_ERROR_FILE": str(reason)}
    words = [sys.executable, "-m", "armd_dist", "train", str(tmp_path / "missing.yaml")]
    done = subprocess.run(words, env=environment() | place, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") == (local_rank == "0")
    assert "missing.yaml" in json.loads(reason.read_text())["message"]["message"]
