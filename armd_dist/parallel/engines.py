"""Imports Megatron-core without what it would load but nobody here uses: time and memory of each process.

A module that may be the first to need it takes it from here.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

COMPILER_OFF = "TORCHDYNAMO_DISABLE"  # torch.compile asks for it at each call, and then returns the function as it is


@contextmanager
def sparingly() -> Iterator[None]:
    """Without torch.compile in decorators, which loads the whole compiler at once, and without wandb.

    They stand at Megatron-core's fused functions and inference and at DeepSpeed's Muon, none of which we call. Both are
    back afterwards, for FlexAttention, training.compile and our own metrics.
    """
    before = os.environ.get(COMPILER_OFF)
    hidden = "wandb" not in sys.modules
    os.environ[COMPILER_OFF] = "1"
    if hidden:
        sys.modules["wandb"] = None  # type: ignore[assignment]  # so its import fails, which they allow
    try:
        yield
    finally:
        if hidden:
            del sys.modules["wandb"]
        if before is None:
            del os.environ[COMPILER_OFF]
        else:
            os.environ[COMPILER_OFF] = before


with sparingly():
    from megatron.core import parallel_state

__all__ = ["parallel_state", "sparingly"]
