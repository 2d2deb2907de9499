"""A build that is killed at any moment: the same command ends in the same bytes, and keeps what was finished."""

import filecmp
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipeline.build_folder import building_folder
from data_pipeline.merge_parts import merge_parts
from data_pipeline.write_shards import build_dataset

KILLS = 20
MARK = "ARMD_TEST_KILLED_BUILDS"  # in the environment of the killed builds and of all that they start

# Forks a child a moment, so that the imports are paid for once. Workers are spawned and import for themselves.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import webdataset.writer
from data_pipeline.merge_parts import merge_parts
from data_pipeline.write_shards import build_dataset
source, model, folder, workers, seconds = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
draw = random.Random(0)
for k in range(KILLS):
    child = os.fork()
    if not child:
        build_dataset([source], model, folder / str(k), held_out=0.2, shard_tokens=1000, workers=workers)
        os._exit(0)
    time.sleep(draw.uniform(0, float(seconds)))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
""".replace("KILLS", str(KILLS))


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def marked(mark: str) -> list[str]:
    """Commands of the processes that run with `mark` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # gone by now, or a zombie
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_killed_at_twenty_random_moments(corpus: Path, model: Path, tmp_path: Path, workers: int) -> None:
    build_dataset([str(corpus)], model, tmp_path / "warm", held_out=0.2, shard_tokens=1000, workers=workers)
    start = time.monotonic()
    build_dataset([str(corpus)], model, tmp_path / "whole", held_out=0.2, shard_tokens=1000, workers=workers)
    seconds = time.monotonic() - start
    command = [sys.executable, "-c", KILLER, str(corpus), str(model), str(tmp_path), str(workers), str(1.2 * seconds)]
    subprocess.run(command, check=True, env={**os.environ, MARK: str(tmp_path)})
    kept = 0
    for k in range(KILLS):
        summary = build_dataset([str(corpus)], model, tmp_path / str(k), held_out=0.2, shard_tokens=1000)
        kept += summary.kept_shards
        assert contents(tmp_path / str(k)) == contents(tmp_path / "whole")
        for name in contents(tmp_path / "whole"):
            assert filecmp.cmp(tmp_path / str(k) / name, tmp_path / "whole" / name, shallow=False), (k, name)
        assert not building_folder(tmp_path / str(k)).exists()
    assert kept > 0
    deadline = time.monotonic() + 30
    while marked(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert marked(str(tmp_path)) == []  # no worker outlives the build that was killed


# Kills itself in the middle of each file that a merge makes, in turn.
MERGE_KILLER = """
import os, signal, sys
from pathlib import Path
from data_pipeline import merge_parts
parts, out, link = sys.argv[1], Path(sys.argv[2]), merge_parts._link
def killing(source, target, countdown):
    if not countdown:
        target.write_bytes(source.read_bytes()[:100])
        os.kill(os.getpid(), signal.SIGKILL)
    link(source, target)
for k in range(4):
    child = os.fork()
    if not child:
        left = iter(range(k, -1, -1))
        merge_parts._link = lambda source, target: killing(source, target, next(left))
        merge_parts.merge_parts(parts, out)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not out.exists()
"""


def test_killed_merge(texts: list[str], model: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.txt" for number in range(2)]
    for file, text in zip(files, texts, strict=False):
        file.write_text(text)
    parts, out = tmp_path / "parts", tmp_path / "out"
    for part in (1, 2):
        build_dataset([str(file) for file in files], model, parts, part=(part, 2))
    merge_parts(parts, tmp_path / "whole")
    subprocess.run([sys.executable, "-c", MERGE_KILLER, str(parts), str(out)], check=True, env=os.environ)
    assert building_folder(out).exists()
    merge_parts(parts, out)
    assert contents(out) == contents(tmp_path / "whole")
    for name in contents(out):
        assert filecmp.cmp(out / name, tmp_path / "whole" / name, shallow=False), name
    assert not building_folder(out).exists()


def test_filters(model: Path, tmp_path: Path) -> None:
    texts = ["", "short", "long enough", "long enough", "another text", "long enough"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    made = build_dataset([str(tmp_path / "a.jsonl")], model, tmp_path / "out", min_characters=8, deduplicate=True)
    assert (made.skipped.empty, made.skipped.short, made.skipped.duplicate) == (1, 1, 2)
    assert made.splits["train"].documents == 2


FULL = """
import resource, sys
from data_pipeline.merge_parts import merge_parts
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
