"""What a process of a job is told by its environment, and how it says that something is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import armd, environment

from armd_dist.cli.train import PLACE, _world_size
from armd_dist.errors import ConfigError

WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("place", "size"),
    [({}, 1), ({"WORLD_SIZE": "1"}, 1), ({"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}, 1), (WHOLE, 2)],
)
def test_places_that_are_whole(place: dict[str, str], size: int, told: pytest.MonkeyPatch) -> None:
    for name, value in place.items():
        told.setenv(name, value)
    assert _world_size() == size


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
        _world_size()
    found = [str(problem) for problem in raised.value.problems]
    assert len(found) == len(problems)
    assert all(one.startswith(wanted) for one, wanted in zip(found, problems, strict=True))


def test_torchrun_ends_with_the_reason(tmp_path: Path) -> None:
    """First, once and without a traceback of ours; and again where torchrun says which process failed."""
    missing = tmp_path / "missing.yaml"
    done = armd("train", missing, processes=2)
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
