"""Training on a dataset at a URL is training on its folder, to the last digit."""

import json
import subprocess
from pathlib import Path

import pytest
from ranks import armd, metrics
from typer.testing import CliRunner
from webserver import FOREVER, serving

from armd_dist.cli.main import app
from data_pipeline.manifest import load_manifest
from data_pipeline.write_shards import build_dataset

STEPS = 6


@pytest.fixture(scope="module")
def data(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small dataset in several shards."""
    folder = tmp_path_factory.mktemp("sharded") / "tokens"
    text, tokenizer = dataset.parent / "text.jsonl", dataset.parent / "tokenizer.model"
    build_dataset([str(text)], tokenizer, folder, shard_tokens=8000)
    assert len(load_manifest(folder / "train").shards) > 5
    return folder / "train"


@pytest.fixture(scope="module")
def local(tiny_config: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the dataset's own folder."""
    folder = tmp_path_factory.mktemp("local")
    done = train(tiny_config, folder / "run", data, folder / "cache")
    assert done.returncode == 0, done.stderr
    assert not (folder / "cache").exists()
    return folder / "run"


def train(
    config: Path, run: Path, path: object, cache: Path, *more: str, processes: int | None = None
) -> subprocess.CompletedProcess[str]:
    settings = [f"run.dir={run}", f"data.path={path}", f"data.cache_dir={cache}", f"training.stop_at={STEPS}"]
    return armd("train", config, *settings, *more, processes=processes)


def curve(folder: Path) -> list[float]:
    return [line[name] for line in metrics(folder) for name in ("loss", "grad_norm")]


def test_url_trains_as_the_folder_to_the_last_digit(tiny_config: Path, data: Path, local: Path, tmp_path: Path) -> None:
    """In two parts; the first with a cache that is too small and a server that fails, the second with a fresh cache."""
    shards = load_manifest(data).shards
    room = sum(shard.bytes for shard in shards) * 0.7 / 1e9
    with serving(data) as server:
        server.harm = {shard.file: [503, "half", "flip"] for shard in shards[:2]}
        first = [f"data.cache_gb={room}", "training.stop_at=3"]
        done = train(tiny_config, tmp_path / "run", server.url, tmp_path / "cache", *first)
        assert done.returncode == 0, done.stderr
        assert "is read must be fetched again and again; data.cache_gb=" in done.stderr
        done = train(tiny_config, tmp_path / "run", server.url, tmp_path / "fresh")
        assert done.returncode == 0, done.stderr
        assert "(step 3)" in done.stderr
        assert "again and again" not in done.stderr
    assert len(metrics(tmp_path / "run")) == STEPS
    assert curve(tmp_path / "run") == curve(local)
    assert list(metrics(tmp_path / "run")[-1]["datasets"]) == [server.url]


def test_two_processes_fetch_once(tiny_config: Path, data: Path, local: Path, tmp_path: Path) -> None:
    with serving(data) as server:
        done = train(tiny_config, tmp_path / "run", server.url, tmp_path / "cache", processes=2)
    assert done.returncode == 0, done.stderr
    assert "fetching shard" in done.stderr
    assert max(server.tars().values()) == 1
    assert curve(tmp_path / "run") == pytest.approx(curve(local), rel=1e-5)


def test_evaluation_of_a_url(data: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = []
    with serving(data) as server:
        for number, path in enumerate((server.url, str(data))):
            out = tmp_path / str(number)
            command = [
                "eval",
                local,
                "--data",
                path,
                "--streams",
                "1,2",
                "--windows",
                "40",
                "--out",
                out,
                "--device",
                "cpu",
            ]
            done = CliRunner().invoke(app, list(map(str, command)))
            assert done.exit_code == 0, done.output
            found.append(json.loads((out / "evaluation.json").read_text()))
            assert found[-1].pop("data") == path
    assert found[0] == found[1]


def test_shard_that_is_gone(tiny_config: Path, data: Path, tmp_path: Path) -> None:
    name = load_manifest(data).shards[0].file
    with serving(data) as server:
        server.harm[name] = [404] * FOREVER
        done = train(tiny_config, tmp_path / "run", server.url, tmp_path / "cache")
    assert done.returncode == 2
    assert f"error: {server.url}/{name}: is not there (404)" in done.stderr
    assert "Traceback" not in done.stderr
