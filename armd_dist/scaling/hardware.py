"""What vendors' public data sheets say of a GPU. Real kernels reach a part of it: see the plan's MFU."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["h200", "h100", "a100"]
GPUS_PER_NODE = 8  # of NVIDIA's DGX and HGX machines
# CUDA's context, NCCL's buffers and the holes between allocations are nobody's tensors: our choice, 10 %.
USABLE = 0.9


@dataclass(frozen=True)
class GPU:
    """memory: bytes; flops: bf16 FLOP/s of dense matrices; nvlink and network: bytes/s that one GPU sends."""

    name: str
    memory: float
    flops: float
    nvlink: float
    network: float

    @property
    def usable(self) -> float:
        """Bytes that tensors may take."""
        return USABLE * self.memory


GPUS: dict[Kind, GPU] = {
    # NVIDIA H200 data sheet (SXM): 141 GB, bf16 1,979 TFLOP/s with sparsity, half of it dense, NVLink 900 GB/s both
    # ways. DGX H200 data sheet: an adapter of 400 Gbit/s for each GPU.
    "h200": GPU("H200 SXM", 141e9, 989e12, 450e9, 50e9),
    # NVIDIA H100 data sheet (SXM): 80 GB, bf16 1,979 TFLOP/s with sparsity, NVLink 900 GB/s. DGX H100: 400 Gbit/s.
    "h100": GPU("H100 SXM", 80e9, 989e12, 450e9, 50e9),
    # NVIDIA A100 data sheet (80 GB SXM): bf16 312 TFLOP/s dense, NVLink 600 GB/s. DGX A100: 200 Gbit/s for each GPU.
    "a100": GPU("A100 80GB SXM", 80e9, 312e12, 300e9, 25e9),
}
