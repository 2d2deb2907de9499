"""A build that is killed at any moment: the same command ends in the same bytes, and keeps what was finished."""

import filecmp
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.build_folder import building_folder
from data_pipeline.write_shards import build_dataset

# Forks a child a moment, so that the imports are paid for once.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import webdataset.writer
from data_pipeline.write_shards import build_dataset
source, model, folder, seconds = sys.argv[1], sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])
draw = random.Random(0)
for k in range(20):
    child = os.fork()
    if not child:
        build_dataset([source], model, folder / str(k), held_out=0.2, shard_tokens=1000)
        os._exit(0)
    time.sleep(draw.uniform(0, seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_killed_at_twenty_random_moments(corpus: Path, model: Path, tmp_path: Path) -> None:
    import time

    build_dataset([str(corpus)], model, tmp_path / "warm", held_out=0.2, shard_tokens=1000)
    start = time.monotonic()
    build_dataset([str(corpus)], model, tmp_path / "whole", held_out=0.2, shard_tokens=1000)
    seconds = time.monotonic() - start
    command = [sys.executable, "-c", KILLER, str(corpus), str(model), str(tmp_path), str(1.2 * seconds)]
    subprocess.run(command, check=True, env=os.environ)
    kept = 0
    for k in range(20):
        summary = build_dataset([str(corpus)], model, tmp_path / str(k), held_out=0.2, shard_tokens=1000)
        kept += summary.kept_shards
        assert contents(tmp_path / str(k)) == contents(tmp_path / "whole")
        for name in contents(tmp_path / "whole"):
            assert filecmp.cmp(tmp_path / str(k) / name, tmp_path / "whole" / name, shallow=False), (k, name)
        assert not building_folder(tmp_path / str(k)).exists()
    assert kept > 0


def test_filters(model: Path, tmp_path: Path) -> None:
    texts = ["", "short", "long enough", "long enough", "another text", "long enough"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    made = build_dataset([str(tmp_path / "a.jsonl")], model, tmp_path / "out", min_characters=8, deduplicate=True)
    assert (made.skipped.empty, made.skipped.short, made.skipped.duplicate) == (1, 1, 2)
    assert made.splits["train"].documents == 2


FULL = """
import resource, sys
from data_pipeline.write_shards import build_dataset
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
build_dataset([sys.argv[1]], sys.argv[2], sys.argv[3], shard_tokens=int(sys.argv[4]))
"""


def test_disk_that_refuses_to_write(corpus: Path, model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(corpus), str(model), str(tmp_path / "out"), "1000000"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert f"DataError: {tmp_path / 'out'}: cannot be written (File too large); free space" in done.stderr
    assert not (tmp_path / "out").exists()
    assert build_dataset([str(corpus)], model, tmp_path / "out", shard_tokens=1_000_000).splits["train"].documents
