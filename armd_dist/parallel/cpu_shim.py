"""What Megatron-core needs where there is no CUDA: it asks CUDA for the device on which to put its buffers."""

import torch


def allow_cpu() -> None:
    """Makes `torch.cuda.current_device` name the CPU. Does nothing where CUDA is.

    Sequence parallelism gathers into buffers of that device; without this, "Torch not compiled with CUDA enabled".
    """
    if not torch.cuda.is_available():
        torch.cuda.current_device = _cpu  # type: ignore[assignment]


def _cpu() -> torch.device:
    return torch.device("cpu")
