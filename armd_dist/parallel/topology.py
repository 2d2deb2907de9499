"""Starts the process groups and tells each process its place."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch._C._distributed_c10d import HashStore

from armd_dist.parallel.config import ParallelConfig
from armd_dist.parallel.cpu_shim import allow_cpu

# Collectives give up so much later than the watch, which can say who is missing.
WATCH_FIRST_MINUTES = 1


@dataclass(frozen=True)
class Topology:
    """This process' place: rank = (pipeline_rank x data_size + data_rank) x tensor_size + tensor_rank.

    So tensor-parallel ranks, which talk most, are neighbours, and the stages of a pipeline, which talk least, are far.
    """

    rank: int
    world_size: int
    tensor_rank: int
    tensor_size: int
    data_rank: int
    data_size: int
    pipeline_rank: int
    pipeline_size: int
    device: torch.device

    def __str__(self) -> str:
        pipeline = f" x pipeline {self.pipeline_size}" if self.pipeline_size > 1 else ""
        sizes = f"tensor {self.tensor_size} x data {self.data_size}{pipeline}"
        return f"{self.world_size} process(es): {sizes} on {self.device.type}"

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def environment_world_size() -> int:
    """Processes of this job, from the environment that torchrun and Slurm launchers set; 1 where there is none."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Processes of this job on this machine; where nobody says, as many as there can be."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or environment_world_size())


def start(config: ParallelConfig) -> Topology:
    """Joins the job's process groups. Without a launcher's environment this is a job of one process."""
    # Megatron overlaps its collectives with matrix products in one hardware queue; read when CUDA starts.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    allow_cpu()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    _join(on_gpu, timedelta(minutes=config.timeout_minutes + WATCH_FIRST_MINUTES))
    return arrange(config, device)


def arrange(config: ParallelConfig, device: torch.device) -> Topology:
    """Divides the processes that have joined into groups, and says which one this process is."""
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=config.tensor,
        pipeline_model_parallel_size=config.pipeline,
        virtual_pipeline_model_parallel_size=config.virtual_pipeline if config.virtual_pipeline > 1 else None,
        distributed_timeout_minutes=round(config.timeout_minutes + WATCH_FIRST_MINUTES),
    )
    return Topology(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        tensor_size=parallel_state.get_tensor_model_parallel_world_size(),
        data_rank=parallel_state.get_data_parallel_rank(),
        data_size=parallel_state.get_data_parallel_world_size(),
        pipeline_rank=parallel_state.get_pipeline_model_parallel_rank(),
        pipeline_size=parallel_state.get_pipeline_model_parallel_world_size(),
        device=device,
    )


def _join(on_gpu: bool, timeout: timedelta) -> None:
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
        return
    # DeepSpeed reads these even when the group already exists.
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=timeout)


def stop() -> None:
    """Leaves the process groups."""
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
