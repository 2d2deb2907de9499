"""Real file systems for tests: small ones, which fill up, and ones that become read-only."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system in memory of `size` ("3m") at `folder`; skips the test, visibly, where nobody may mount one."""
    folder.mkdir()
    done = mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    """Makes a small disk read-only ("ro"), or larger ("size=9m")."""
    done = mount("-o", f"remount,{option}", str(folder))
    assert done.returncode == 0, done.stderr


def mount(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *words], capture_output=True, text=True)
