"""A disk that fills up: one clear error, nothing half-written to see, and with room the same command goes on."""

import filecmp
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ranks import armd

from data_pipeline.build_folder import building_folder
from data_pipeline.errors import DataError
from data_pipeline.manifest import load_manifest
from data_pipeline.merge_parts import merge_parts
from data_pipeline.train_tokenizer import train_tokenizer
from data_pipeline.write_shards import build_dataset

SHARD_TOKENS = 4000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves `leave` bytes free."""
    filler = disk / "filler"
    filler.write_bytes(b"\0" * (shutil.disk_usage(disk).free - leave))
    return filler


def same(left: Path, right: Path) -> bool:
    names = sorted(str(path.relative_to(right)) for path in right.rglob("*") if path.is_file())
    assert sorted(str(path.relative_to(left)) for path in left.rglob("*") if path.is_file()) == names
    return not any(filecmp.cmpfiles(left, right, names, shallow=False)[1:])


@pytest.mark.parametrize(("workers", "leave"), [(1, 60_000), (2, 60_000), (1, 3_000)])
def test_build(corpus: Path, model: Path, disk: Path, tmp_path: Path, workers: int, leave: int) -> None:
    """With little room some shards are finished and kept; with hardly any nothing is, and nothing stays."""
    wanted = tmp_path / "wanted"
    build_dataset([str(corpus)], model, wanted, held_out=0.2, shard_tokens=SHARD_TOKENS)
    out, filler = disk / "out", fill(disk, leave)
    settings = ["--tokenizer", model, "--out", out, "--held-out", 0.2, "--shard-tokens", SHARD_TOKENS]
    done = armd("data", "build", "--input", corpus, *settings, "--workers", workers)
    assert done.returncode == 2, done.stderr
    assert f"error: {out}: cannot be written (No space left on device); free space or choose another" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    kept = leave > 10_000
    assert ("its finished shards are kept, and the same command goes on" in done.stderr) == kept
    assert building_folder(out).exists() == kept
    assert not list(disk.rglob(".tokens-*"))
    if kept:  # the command finds no room again, and keeps what it has
        assert "its finished shards are kept" in armd("data", "build", "--input", corpus, *settings).stderr
    filler.unlink()
    again = build_dataset([str(corpus)], model, out, held_out=0.2, shard_tokens=SHARD_TOKENS, workers=workers)
    assert (again.kept_shards > 0) == kept
    assert same(out, wanted)


def test_merge(corpus: Path, model: Path, disk: Path, texts: list[str], tmp_path: Path) -> None:
    """Parts on another disk are copied; where that fills, nothing of the dataset is left."""
    for number, text in enumerate(texts[:2]):
        (tmp_path / f"{number}.txt").write_text(text * 100)
    files = [str(tmp_path / f"{number}.txt") for number in range(2)]
    for part in (1, 2):
        build_dataset(files, model, tmp_path / "parts", part=(part, 2))
    filler = fill(disk, 9_000)
    with pytest.raises(DataError, match=r"out: cannot be written \(No space left on device\); free space or choose"):
        merge_parts(tmp_path / "parts", disk / "out")
    assert [path.name for path in disk.iterdir()] == ["filler"]
    filler.unlink()
    merged = merge_parts(tmp_path / "parts", disk / "out")["train"]
    assert merged == load_manifest(disk / "out/train")


def test_tokenizer(corpus: Path, disk: Path) -> None:
    fill(disk, 2_000)
    with pytest.raises(DataError, match=r"t\.model: cannot be written \(No space left on device\)"):
        train_tokenizer([str(corpus)], disk / "t.model", 340)
    assert [path.name for path in disk.iterdir()] == ["filler"]


def test_merge_of_other_dtypes(model: Path, texts: list[str], tmp_path: Path) -> None:
    for number, text in enumerate(texts[:2]):
        (tmp_path / f"{number}.txt").write_text(text)
    for part in (1, 2):
        build_dataset([str(tmp_path / "0.txt"), str(tmp_path / "1.txt")], model, tmp_path / "parts", part=(part, 2))
    path = tmp_path / "parts/part-00002-of-00002/train/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": "uint32"}))
    with pytest.raises(DataError, match=r"part-00002-of-00002/train: has other token types or another tokenizer than"):
        merge_parts(tmp_path / "parts", tmp_path / "out")
    assert not (tmp_path / "out").exists()
