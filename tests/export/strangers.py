"""Exports as somebody without this project uses them."""

import subprocess
import sys
from pathlib import Path

import torch
from ranks import TESTS, environment


def in_a_fresh_process(export: Path, out: Path) -> dict[str, torch.Tensor]:
    """What fresh.py gets out of the folder."""
    torch.save(given(), out / "given.pt")
    done = subprocess.run(
        [sys.executable, "-I", str(TESTS / "export" / "fresh.py"), str(export), str(out)],
        env={**environment(), "HF_MODULES_CACHE": str(out / "modules"), "HF_HUB_OFFLINE": "1"},
        cwd=out,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(out / "found.pt")


def given() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 400, (2, 21), generator=generator)
    ids[:, 0] = 2  # BOS
    return {"ids": ids, "block": torch.arange(20).expand(2, -1) % 6 + 1}
