"""What a run needs before it starts: memory against the GPU's, communication, time; what would fit if it does not."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from armd_dist.config_rules import cross_problems
from armd_dist.model.cost import num_parameters, training_flops_per_token
from armd_dist.run import Run
from armd_dist.scaling.communication import Communication, communication_of
from armd_dist.scaling.hardware import GPU, GPUS_PER_NODE
from armd_dist.scaling.memory import Memory, accumulation_steps, memory_of
from armd_dist.scaling.stages import StageRow, Waiting, stage_rows, waiting_of

MOST_PROPOSALS = 3


@dataclass(frozen=True)
class Plan:
    """One run on `gpus` GPUs of one kind. Bytes, FLOPs, seconds of one step; `days` for `tokens` tokens at `mfu`.

    flops_per_token: forward and backward of the model, without what recomputing adds (as MFU is defined).
    parameters_per_process and memory are of the pipeline rank with most of each; waiting is part of the step's seconds.
    proposals: settings that would fit, the cheapest change first; empty where the run fits, or nothing tried does.
    """

    gpus: int
    data_size: int
    parameters: int
    parameters_per_process: int
    memory: Memory
    stages: list[StageRow]
    waiting: Waiting
    usable: float
    flops_per_token: float
    tokens_per_step: int
    samples_per_step: int
    accumulation_steps: int
    communication: Communication
    mfu: float
    step_seconds: float
    tokens: float
    days: float
    leaves_node: bool
    proposals: list[dict[str, str | int]]

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.usable


def make_plan(run: Run, gpus: int, gpu: GPU, tokens: float | None = None, mfu: float = 0.4) -> Plan:
    """For a run whose settings have been checked for `gpus` processes. tokens: None for all that the run trains on."""
    data_size = gpus // (run.parallel.tensor * run.parallel.pipeline)
    per_step = run.training.global_batch_size * run.data.sequence_length
    wanted = tokens if tokens is not None else float(run.training.steps * per_step)
    window = run.orders.block_length if run.model.network == "denoiser" else None
    flops = training_flops_per_token(run.model, run.data.sequence_length, window)
    memory, stages, waiting = memory_of(run, data_size), stage_rows(run, gpus), waiting_of(run, data_size)
    speed = gpus * gpu.flops * mfu / flops / waiting.slowdown
    return Plan(
        gpus=gpus,
        data_size=data_size,
        parameters=num_parameters(run.model),
        parameters_per_process=max(stage.parameters for stage in stages),
        memory=memory,
        stages=stages,
        waiting=waiting,
        usable=gpu.usable,
        flops_per_token=flops,
        tokens_per_step=per_step,
        samples_per_step=run.training.global_batch_size,
        accumulation_steps=accumulation_steps(run, data_size),
        communication=communication_of(run, data_size, gpu),
        mfu=mfu,
        step_seconds=per_step / speed,
        tokens=wanted,
        days=wanted / speed / 86_400,
        leaves_node=run.parallel.tensor > GPUS_PER_NODE,
        proposals=[] if memory.total <= gpu.usable else proposals(run, gpus, gpu),
    )


def proposals(run: Run, gpus: int, gpu: GPU) -> list[dict[str, str | int]]:
    """Settings that would fit, at most three that change different things, the cheapest change first.

    A smaller micro-batch costs least, then sequence parallelism where there is tensor parallelism, recomputing
    (selective, then full: a third more FLOPs), a higher ZeRO stage, and most of all more tensor parallelism, inside a
    node. All combinations are tried by the formulas of this room, and those with more pipeline stages where none of
    these fits.
    """
    found: dict[frozenset[str], dict[str, str | int]] = {}
    for changes in layouts(run, gpus):
        if "parallel.pipeline" in changes and found:
            break
        candidate = changed(run, changes)
        parallel = candidate.parallel
        fits = memory_of(candidate, gpus // (parallel.tensor * parallel.pipeline)).total <= gpu.usable
        # More of what was proposed already is no other proposal.
        if fits and not any(fewer <= changes.keys() for fewer in found) and not cross_problems(candidate, gpus):
            found[frozenset(changes)] = changes
    return list(found.values())[:MOST_PROPOSALS]


def changed(run: Run, changes: dict[str, str | int]) -> Run:
    """The run with `{path: value}` in place of its own."""
    tree = run.model_dump()
    for path, value in changes.items():
        room, name = path.split(".")
        tree[room][name] = value
    return Run.model_validate(tree)


def layouts(run: Run, gpus: int) -> Iterator[dict[str, str | int]]:
    """Changes to its layout in every combination, none of them first, by its most expensive change first of all."""
    parallel, micro = run.parallel, run.training.micro_batch_size
    tensors = [size for size in range(parallel.tensor, GPUS_PER_NODE + 1) if gpus % size == 0] or [parallel.tensor]
    recomputes = {"none": ["none", "selective", "full"], "selective": ["selective", "full"]}.get(
        str(parallel.recompute), [parallel.recompute]
    )
    smaller = [size for size in range(micro, 0, -1) if micro % size == 0]
    stages, sequences = range(parallel.zero_stage, 4), sorted({parallel.sequence, True})
    most = run.model.num_layers // parallel.virtual_pipeline
    pipelines = [size for size in range(parallel.pipeline, most + 1) if gpus % size == 0]
    if isinstance(parallel.recompute, list):
        pipelines = [parallel.pipeline]  # it has one word for each rank
    each = itertools.product(pipelines, tensors, stages, recomputes, sequences, smaller)
    for pipeline, tensor, stage, recompute, sequence, size in each:
        if (sequence and tensor == 1) or (pipeline > 1 and stage == 3) or gpus % (pipeline * tensor):
            continue
        wanted = {
            "training.micro_batch_size": (size, micro),
            "parallel.sequence": (sequence, parallel.sequence),
            "parallel.recompute": (recompute, parallel.recompute),
            "parallel.zero_stage": (stage, parallel.zero_stage),
            "parallel.tensor": (tensor, parallel.tensor),
            "parallel.pipeline": (pipeline, parallel.pipeline),
        }
        yield {path: value for path, (value, now) in wanted.items() if value != now}
