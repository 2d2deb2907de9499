"""What Megatron-core needs where there is no CUDA: it asks CUDA for the device on which to put its buffers."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


def allow_cpu() -> None:
    """Makes `torch.cuda.current_device` name the CPU. Does nothing where CUDA is.

    Sequence parallelism gathers into buffers of that device; without this, "Torch not compiled with CUDA enabled".
    """
    if not torch.cuda.is_available():
        torch.cuda.current_device = _cpu  # type: ignore[assignment]


def cuda_means_cpu() -> AbstractContextManager[object]:
    """Within it tensors made on "cuda", as pipeline schedules do, are made on the CPU. Does nothing where CUDA is."""
    return nullcontext() if torch.cuda.is_available() else _CudaMeansCpu()


class _CudaMeansCpu(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return func(*args, **({**kwargs, "device": "cpu"} if kwargs.get("device") == "cuda" else kwargs))


def _cpu() -> torch.device:
    return torch.device("cpu")
