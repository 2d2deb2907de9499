"""Clusters by name: files of settings that a checkout ships, and a user's own."""

import os
from pathlib import Path

from armd_dist.errors import ConfigError, Problem

SUFFIXES = (".yaml", ".yml")


def folders() -> list[Path]:
    """Where clusters are looked for: the user's own first, then the checkout's."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [config / "armd-dist" / "cluster", Path(__file__).resolve().parents[1] / "configs" / "cluster"]


def cluster_file(given: str) -> Path:
    """The file that --cluster means: a path, or the name of a file in `folders()`. Raises ConfigError."""
    if "/" in given or given.endswith(SUFFIXES):
        return Path(given).expanduser()
    found = [file for folder in folders() for suffix in SUFFIXES if (file := folder / (given + suffix)).is_file()]
    if found:
        return found[0]
    known = sorted({file.stem for folder in folders() for suffix in SUFFIXES for file in folder.glob(f"*{suffix}")})
    rule = "is no cluster in " + " or ".join(map(str, folders()))
    remedy = f"write {folders()[0] / given}.yaml, or give a path, or one of: {', '.join(known)}"
    raise ConfigError([Problem("--cluster", given, rule, remedy)])
