"""Requests made from the server's own OpenAPI schema, by schemathesis, where that is installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from process import serving
from ranks import TIMEOUT_SECONDS

SCHEMATHESIS = shutil.which("schemathesis")


@pytest.mark.grid
@pytest.mark.skipif(SCHEMATHESIS is None, reason="no schemathesis on PATH (93 MB, so it is no dependency)")
def test_the_server_keeps_to_its_schema(export: Path, tmp_path: Path) -> None:
    """No 500, no status or type that the schema does not name, nothing accepted that it forbids.

    What is right by it may be refused: no schema says that streams are at most as many as the tokens.
    """
    hooks = {**os.environ, "SCHEMATHESIS_HOOKS": "fuzz_hooks", "PYTHONPATH": str(Path(__file__).parent)}
    with serving(export, key=None) as server:
        words = [str(SCHEMATHESIS), "run", f"{server.address}/openapi.json", "--max-examples", "200", "--seed", "1"]
        words += ["--exclude-checks", "positive_data_acceptance"]
        done = subprocess.run(words, env=hooks, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
