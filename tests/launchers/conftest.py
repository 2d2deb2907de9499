"""A dataset and the YAML of a run so small that starting its processes is most of the work."""

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster
import pytest
from cluster_jobs import Cluster
from omegaconf import OmegaConf

from armd_dist.config import load_run
from armd_dist.run import Run
from data_pipeline.train_tokenizer import train_tokenizer
from data_pipeline.write_shards import build_dataset

VOCAB = 300
TEXT = "the quick brown fox jumps over lazy dogs while seven wizards brew potent elixirs and then 42 more"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """What a test has signals do ends with it: an ignored one would stay so in all processes that others start."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 documents of 50 words."""
    folder, draw = tmp_path_factory.mktemp("launched"), random.Random(0)
    texts = [" ".join(draw.choices(TEXT.split(), k=50)) for _ in range(60)]
    pages = folder / "pages.jsonl"
    pages.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    model = train_tokenizer([str(pages)], folder / "tokenizer.model", VOCAB).path
    build_dataset([str(pages)], model, folder / "data")
    return folder / "data" / "train"


@pytest.fixture(scope="session")
def tree(dataset: Path) -> dict[str, Any]:
    """The settings of a run of three steps, all but run.dir."""
    return {
        "model": {
            "vocab_size": VOCAB,
            "max_sequence_length": 16,
            "hidden_size": 16,
            "num_layers": 2,
            "num_attention_heads": 2,
        },
        "data": {"path": str(dataset), "sequence_length": 16},
        "orders": {"left_to_right_steps": 1, "progressive_steps": 1, "rho_max": 2, "strided_streams": [1, 2]},
        "training": {"steps": 3, "global_batch_size": 4, "micro_batch_size": 2, "warmup_steps": 1, "precision": "fp32"},
        "parallel": {"zero_stage": 0},
        "logging": {"wandb": "disabled", "every": 1},
    }


@pytest.fixture
def config(tree: dict[str, Any], tmp_path: Path) -> Path:
    """The YAML of that run in tmp_path/run."""
    path = tmp_path / "tiny.yaml"
    tree = {"run": {"dir": str(tmp_path / "run")}, **tree}
    OmegaConf.save(OmegaConf.create(tree), path)
    return path


@pytest.fixture
def tiny_run(config: Path) -> Run:
    return load_run(config)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes stand-ins for Slurm's commands from lines of shell, alone on PATH; returns their folder."""

    def make(**scripts: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, lines in scripts.items():
            (folder / name).write_text("#!/bin/sh\n" + lines + "\n")
            (folder / name).chmod(0o755)
        for name in ("env", "dirname"):  # all that the scripts need
            if not (folder / name).exists():
                (folder / name).symlink_to(str(shutil.which(name)))
        monkeypatch.setenv("PATH", str(folder))
        return folder

    return make


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A Slurm of two nodes for the tests of this session, installed where it is missing."""
    obstacle = cluster.why_not()
    if obstacle:
        pytest.skip(obstacle)
    with tempfile.TemporaryDirectory(prefix="armd-slurm-") as folder:
        # Its own session: what interrupts the tests must not reach it before it can end its daemons in order.
        command = [sys.executable, cluster.__file__, folder]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield Cluster(Path(folder))
            # Leaving closes its standard input, and waits.
