"""Bytes that one process sends in a step, by ring algorithms, and how long that takes at full bandwidth.

Between n processes an all-gather or a reduce-scatter of S bytes sends (n - 1) / n x S from each, an
all-reduce twice that.
"""

from dataclasses import dataclass

from armd_dist.run import Run
from armd_dist.scaling.activations import element_size, rows_through
from armd_dist.scaling.hardware import GPU, GPUS_PER_NODE
from armd_dist.scaling.memory import local_parameters


@dataclass(frozen=True)
class Communication:
    """Bytes that one process sends in a step, and seconds for it at full bandwidth, nothing overlapped.

    gradients: reduced over data parallelism; weights: gathered under ZeRO; hidden_states: reduced over tensor
    parallelism.
    """

    gradients: float
    weights: float
    hidden_states: float
    data_seconds: float
    tensor_seconds: float


def communication_of(run: Run, data_size: int, gpu: GPU) -> Communication:
    tensor, passes = run.parallel.tensor, accumulation_steps(run, data_size)
    stage, size = run.parallel.zero_stage, element_size(run)
    parameters = local_parameters(run.model, tensor)
    ring = (data_size - 1) / data_size
    # DeepSpeed reduces in the weights' type, as all-reduces of whole gradients up to stage 2: once a step, and at stage
    # 2 in every pass. Stage 3 scatters them.
    reduced = {0: 2.0, 1: 2.0, 2: 2.0 * passes, 3: 1.0 * passes}[stage] * size * ring * parameters
    gathered = {0: 0.0, 1: 1.0, 2: 1.0, 3: 2.0 * passes}[stage] * size * ring * parameters
    hidden = passes * _hidden_states(run) * (tensor - 1) / tensor
    between = gpu.nvlink if data_size * tensor <= GPUS_PER_NODE else gpu.network
    inside = gpu.nvlink if tensor <= GPUS_PER_NODE else gpu.network
    return Communication(reduced, gathered, hidden, (reduced + gathered) / between, hidden / inside)


def accumulation_steps(run: Run, data_size: int) -> int:
    """Micro-batches of one process in a step."""
    return run.training.global_batch_size // (run.training.micro_batch_size * data_size)


def _hidden_states(run: Run) -> float:
    """Bytes of hidden states through the ring in one pass, before the share (n - 1) / n.

    Forward, attention and the MLP each all-reduce what they wrote; backward, the gradients of what queries, keys and
    values, and the MLP read. Sequence parallelism makes of an all-reduce an all-gather and a reduce-scatter, and
    gathers what was read once more in the backward pass. A recomputed layer goes forward twice.
    """
    wrote = sum(2 * attending for attending, _ in rows_through(run))
    read = sum(2 * attending + keys for attending, keys in rows_through(run))
    forward = wrote + read if run.parallel.sequence else 2 * wrote
    backward = wrote + 2 * read if run.parallel.sequence else 2 * read
    if run.parallel.recompute == "full":
        forward *= 2
    looked_up = 1  # the text's own embeddings, and both neighbours'
    if run.model.network == "armd" and run.model.query_context in ("neighbours", "both"):
        looked_up = 3
    ends = 2 * (looked_up + 1) * run.training.micro_batch_size * run.data.sequence_length
    return float(element_size(run) * run.model.hidden_size * (forward + backward + ends))
