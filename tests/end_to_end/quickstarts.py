"""A folder in which the quickstart ran, and the commands that a user would type there."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ranks import environment

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Quickstart:
    folder: Path
    output: str

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """A line of shell, typed in the folder with the environment active."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            command, shell=True, cwd=self.folder, env={**environment(), "PATH": path}, capture_output=True, text=True
        )

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """make in the folder, with the environment that the tests run in instead of a new one."""
        venv = Path(sys.executable).parents[1]
        return self.run(f"make VENV={venv} --assume-old={venv}/.armd-ready {' '.join(arguments)}")
