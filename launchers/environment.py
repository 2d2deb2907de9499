"""The environment variables of a job: which ones it must not inherit, and which ones its processes need."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import submitit
from submitit.helpers import TorchDistributedEnvironment

# What another job, Slurm's or torchrun's, tells its processes about themselves.
FOREIGN_PREFIXES = ("SLURM_", "SRUN_", "SUBMITIT_", "TORCHELASTIC_", "PMI_", "PMIX_")
FOREIGN_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
# Where Slurm's commands find their cluster; true inside and outside of jobs. Sites also set SBATCH_* for their users.
KEPT = ("SLURM_CONF", "SUBMITIT_PREEMPT_SIGNAL")


@contextmanager
def outside_any_job() -> Iterator[None]:
    """Hides what a job around us says of itself, so that a job started from within it is one of its own."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name not in KEPT and (name.startswith(FOREIGN_PREFIXES) or name in FOREIGN_NAMES)
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


def export_place() -> None:
    """Tells torch.distributed this process' place in the job. Called by every process, before torch is imported."""
    # Every process sees all GPUs of its node and picks cuda:LOCAL_RANK; showing it one alone would leave no such index.
    place = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    # Not the port that submitit draws: the system may have lent it to a client (from 32768 on), at every start again.
    start = f"{submitit.JobEnvironment().job_id} {os.environ.get('SLURM_RESTART_COUNT', '0')}"
    os.environ["MASTER_PORT"] = str(random.Random(start).randint(20_000, 32_767))
    if place.local_world_size == place.world_size:
        # One machine needs no name that others can resolve, and many laptops and containers cannot resolve their own.
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        # Without a limit each process would start a thread per core of the machine.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
