"""What a process of training need not load at its start."""

from pathlib import Path

from ranks import on_ranks

CODE = """
import os
import sys
import armd_dist.training.loop
found = {"wandb", "torch._inductor.compile_fx"} & set(sys.modules)
assert not found, f"{found}: import the engines first from armd_dist/parallel/engines.py"
assert "TORCHDYNAMO_DISABLE" not in os.environ
import torch
import wandb
compiled = torch.compile(lambda x: x + 1, backend="eager")
assert hasattr(compiled, "_torchdynamo_orig_callable"), "torch.compile does nothing"
"""


def test_engines_bring_no_compiler_and_no_wandb_and_hide_neither(tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text(CODE)
    on_ranks(script, processes=1)
