"""Bytes that one process sends in a step, by ring algorithms, and how long that takes at full bandwidth.

Between n processes an all-gather or a reduce-scatter of S bytes sends (n - 1) / n x S from each, an
all-reduce twice that.
"""

from dataclasses import dataclass

from armd_dist.model.stages import Stage
from armd_dist.run import Run
from armd_dist.scaling.activations import FP32, element_size, kept_by_layers, rows_through
from armd_dist.scaling.hardware import GPU, GPUS_PER_NODE
from armd_dist.scaling.memory import accumulation_steps, parameters_of, stages_at


@dataclass(frozen=True)
class Communication:
    """Bytes that one process sends in a step, and seconds for it at full bandwidth, nothing overlapped.

    gradients: reduced over data parallelism; weights: gathered under ZeRO; hidden_states: reduced over tensor
    parallelism; between_stages: sent to the stages above and below. In a pipeline each is of the rank that sends most.
    """

    gradients: float
    weights: float
    hidden_states: float
    between_stages: float
    data_seconds: float
    tensor_seconds: float
    pipeline_seconds: float


def communication_of(run: Run, data_size: int, gpu: GPU) -> Communication:
    tensor, passes = run.parallel.tensor, accumulation_steps(run, data_size)
    stage, size = run.parallel.zero_stage, element_size(run)
    ranks = [stages_at(run, rank) for rank in range(run.parallel.pipeline)]
    parameters = max(parameters_of(run.model, tensor, mine) for mine in ranks)
    ring = (data_size - 1) / data_size
    # DeepSpeed reduces in the weights' type, as all-reduces of whole gradients up to stage 2: once a step, and at stage
    # 2 in every pass, but for a pipeline once. Stage 3 scatters them.
    reductions = passes if run.parallel.pipeline == 1 else 1
    reduced = {0: 2.0, 1: 2.0, 2: 2.0 * reductions, 3: 1.0 * passes}[stage] * size * ring * parameters
    gathered = {0: 0.0, 1: 1.0, 2: 1.0, 3: 2.0 * passes}[stage] * size * ring * parameters
    hidden = passes * max(_hidden_states(run, rank, mine) for rank, mine in enumerate(ranks)) * (tensor - 1) / tensor
    stages = float(max(_between_stages(run, mine, passes) for mine in ranks))
    between = gpu.nvlink if data_size * tensor <= GPUS_PER_NODE else gpu.network
    inside = gpu.nvlink if tensor <= GPUS_PER_NODE else gpu.network
    # A pipeline's ranks lie as far apart as they can.
    across = gpu.nvlink if data_size * tensor * run.parallel.pipeline <= GPUS_PER_NODE else gpu.network
    seconds = (reduced + gathered) / between, hidden / inside, stages / across
    return Communication(reduced, gathered, hidden, stages, *seconds)


def _between_stages(run: Run, mine: list[Stage], passes: int) -> int:
    """Bytes that a process with these stages sends up, hidden states, and down, their gradients, in a step.

    A stage sends what the next one reads: both streams in ARMD's lower half. The interleaved schedule knows one shape,
    that of the first layer. Copies of a tied embedding exchange their gradients once.
    """
    model, parallel, sent = run.model, run.parallel, 0
    if parallel.pipeline == 1:
        return 0
    reads = [layer.boundary for layer in kept_by_layers(run)]
    if parallel.virtual_pipeline > 1:
        reads = [reads[0]] * len(reads)
    for stage in mine:
        sent += passes * (0 if stage.predicts else reads[stage.last])
        sent += passes * (0 if stage.embeds else reads[stage.first])
        if model.tie_embeddings and (stage.embeds or stage.predicts):
            each = FP32 if parallel.zero_stage < 2 else element_size(run)
            sent += each * model.padded_vocab_size * model.hidden_size // parallel.tensor
    return sent


def _hidden_states(run: Run, rank: int, mine: list[Stage]) -> float:
    """Bytes of hidden states through the ring in one pass through these stages, before the share (n - 1) / n.

    Forward, attention and the MLP each all-reduce what they wrote; backward, the gradients of what queries, keys and
    values, and the MLP read. Sequence parallelism makes of an all-reduce an all-gather and a reduce-scatter, and
    gathers what was read once more in the backward pass. A recomputed layer goes forward twice.
    """
    rows = [each for stage in mine for each in rows_through(run)[stage.first : stage.last]]
    tokens = run.training.micro_batch_size * run.data.sequence_length
    if run.model.learned_order:
        rows += [(2 * tokens, 2 * tokens), (tokens, tokens)]  # its heads
    wrote = sum(2 * attending for attending, _ in rows)
    read = sum(2 * attending + keys for attending, keys in rows)
    forward = wrote + read if run.parallel.sequence else 2 * wrote
    backward = wrote + 2 * read if run.parallel.sequence else 2 * read
    if run.parallel.recompute_at(rank) == "full":
        forward *= 2
    if run.model.learned_order:  # the pass of the text, whose rows are half of those of the masked ones
        forward += sum(2 * attending for attending, _ in rows_through(run))
    looked_up = 1  # the text's own embeddings, and both neighbours'
    if run.model.network == "armd" and run.model.query_context in ("neighbours", "both"):
        looked_up = 3
    # The look-ups are with the first stage, the head with the last one.
    ends = 2 * (looked_up * mine[0].embeds + mine[-1].predicts) * tokens * (2 if run.model.learned_order else 1)
    return float(element_size(run) * run.model.hidden_size * (forward + backward + ends))
