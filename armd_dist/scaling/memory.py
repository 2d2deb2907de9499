"""Memory of one process while it trains, part by part, in bytes.

Weights, gradients and optimizer state are what DeepSpeed 0.19 really holds under `parallel/zero.py` (tests measure it):
gradients accumulate in fp32, and every fp32 stage keeps the flat fp32 weights of its share a second time.
"""

from dataclasses import dataclass

from armd_dist.model.config import ModelConfig
from armd_dist.model.cost import last_norm, layer_split, layer_whole, order_head_whole
from armd_dist.model.stages import Stage, whole
from armd_dist.parallel.config import Recompute
from armd_dist.parallel.stages import stages_of
from armd_dist.run import Run
from armd_dist.scaling.activations import (
    FP32,
    Kept,
    element_size,
    kept_by_angles,
    kept_by_embedding,
    kept_by_head,
    kept_by_layers,
    kept_by_order_heads,
    logits_peak,
)

BUCKET = 500_000_000  # elements of DeepSpeed's reduce_bucket_size, allocated whole
LIVE = 1_000_000_000  # elements of its stage3_max_live_parameters


@dataclass(frozen=True)
class Memory:
    """weights to average stay for the whole run; activations, logits and work live in a pass; step_work in a step.

    logits and work do not live at once, nor do a pass and a step. host: bytes in host memory, for an offloaded
    optimizer. micro_batches: as many are kept at once (a part of one counts as such); layers: of this process, one by
    one, from the bottom; embedding and head: what else one micro-batch keeps, behind the first stage rotary angles
    alone, before the last one no head.
    """

    weights: int
    gradients: int
    master_weights: int
    adam_moments: int
    buffers: int
    average: int
    activations: int
    logits: int
    work: int
    step_work: int
    host: int
    micro_batches: float
    layers: list[Kept]
    embedding: int
    head: int

    @property
    def state(self) -> int:
        """What stays from one step to the next."""
        return self.weights + self.gradients + self.master_weights + self.adam_moments + self.buffers + self.average

    @property
    def total(self) -> int:
        """The most that is there at once."""
        return self.state + max(self.activations + max(self.logits, self.work), self.step_work)


def local_parameters(model: ModelConfig, tensor: int) -> int:
    """Parameters of one tensor-parallel process that holds all layers."""
    return parameters_of(model, tensor, [whole(model.num_layers)])


def parameters_of(model: ModelConfig, tensor: int, stages: list[Stage]) -> int:
    """Parameters of one tensor-parallel process that holds these stages: norms, places and the query context whole, all
    else its share. The last stage of several has a copy of a tied embedding."""
    maps = {"none": 0, "neighbours": 2, "linear": 1, "both": 3}[model.query_context]
    distances = model.max_sequence_length + 1 if model.query_context in ("neighbours", "both") else 0
    if model.network == "denoiser":
        maps, distances = 0, 1  # the mask's vector
    hidden, unsplit, split = model.hidden_size, 0, 0
    for stage in stages:
        layers = stage.last - stage.first
        tables = stage.embeds + stage.predicts - (stage.embeds and stage.predicts and model.tie_embeddings)
        unsplit += layers * layer_whole(model)
        unsplit += ((model.num_positions + distances) * hidden + maps * hidden**2) * stage.embeds
        unsplit += last_norm(model) * stage.predicts
        split += layers * layer_split(model) + tables * model.padded_vocab_size * hidden
    if model.learned_order:
        unsplit += 2 * (layer_whole(model) + order_head_whole(model))
        split += 2 * layer_split(model)
    return unsplit + split // tensor


def stages_at(run: Run, rank: int) -> list[Stage]:
    """The stages of a pipeline rank."""
    return stages_of(run)[rank :: run.parallel.pipeline]


def accumulation_steps(run: Run, data_size: int) -> int:
    """Micro-batches of one process in a step."""
    return max(1, run.training.global_batch_size // (run.training.micro_batch_size * data_size))


def memory_of(run: Run, data_size: int) -> Memory:
    """The largest of all processes, with `data_size` data-parallel ones."""
    return max(memories_of(run, data_size), key=lambda memory: memory.total)


def memories_of(run: Run, data_size: int) -> list[Memory]:
    """Of a process of every pipeline rank."""
    layers = kept_by_layers(run)
    return [_memory(run, data_size, rank, layers) for rank in range(run.parallel.pipeline)]


def _memory(run: Run, data_size: int, rank: int, network: list[Kept]) -> Memory:
    parallel, size, mine = run.parallel, element_size(run), stages_at(run, rank)
    stage, parameters = parallel.zero_stage, parameters_of(run.model, parallel.tensor, mine)
    share = -(-parameters // data_size)
    offload = parallel.offload_optimizer
    state = 3 * FP32 * share if stage else 2 * FP32 * parameters  # stage 0 steps on the weights themselves
    average = FP32 * share if run.training.ema_decay is not None else 0  # a share at stage 0 too
    layers = [layer for part in mine for layer in network[part.first : part.last]]
    predicts = mine[-1].predicts
    layers += kept_by_order_heads(run)
    embedding = kept_by_embedding(run) if mine[0].embeds else kept_by_angles(run)
    head = kept_by_head(run) if predicts else 0
    passes, recompute = _passes_at_once(run, data_size, rank), parallel.recompute_at(rank)
    # The interleaved schedule keeps what each stage hands on, in the one shape that it sends.
    handed_on = passes * network[0].boundary if parallel.virtual_pipeline > 1 else 0

    kept, once_more = kept_under(layers, recompute)
    # For all passes that are on their way. The head's is over at once.
    of_passes = -(-passes * (embedding + kept) // parallel.virtual_pipeline) + handed_on + head
    return Memory(
        weights=size * (share if stage == 3 else parameters),
        gradients=_gradients(run, parameters, share),
        master_weights=0 if offload or not stage else FP32 * share,
        adam_moments=0 if offload else 2 * FP32 * (share if stage else parameters),
        buffers=_buffers(run, parameters),
        average=0 if offload else average,
        activations=of_passes + once_more,
        logits=logits_peak(run) if predicts else 0,
        work=max(layer.work for layer in layers) + (_waiting_gradient(run) if predicts and mine[0].embeds else 0),
        step_work=_step_work(run, parameters, share),
        host=state + FP32 * share + average if offload else 0,
        micro_batches=passes / parallel.virtual_pipeline,
        layers=layers,
        embedding=embedding,
        head=head,
    )


def kept_under(layers: list[Kept], recompute: Recompute) -> tuple[int, int]:
    """Bytes that these layers keep of every pass, and of the one whose layer is being computed again."""
    if recompute == "full":
        return sum(layer.boundary for layer in layers), max(layer.kept for layer in layers)
    if recompute == "selective":
        return sum(layer.selective for layer in layers), max(layer.kept - layer.selective for layer in layers)
    return sum(layer.kept for layer in layers), 0


def _passes_at_once(run: Run, data_size: int, rank: int) -> int:
    """Forward passes through one of the rank's stages whose backward passes are still to come, at most, in Megatron's
    schedules: as many as it starts with, and one more."""
    size, virtual = run.parallel.pipeline, run.parallel.virtual_pipeline
    behind = size - rank - 1
    first = 2 * behind + (virtual - 1) * size if virtual > 1 else behind
    return min(accumulation_steps(run, data_size) * virtual, first + 1)


def _gradients(run: Run, parameters: int, share: int) -> int:
    """In fp32: of everything below stage 2, of the process' share from there on; on the host with the optimizer.

    At stage 2 a pipeline adds up whole gradients beside it, in the weights' type, and reduces them after its last pass.
    """
    if run.parallel.zero_stage < 2:
        return FP32 * parameters
    unreduced = element_size(run) * parameters if run.parallel.pipeline > 1 else 0
    return unreduced + (0 if run.parallel.offload_optimizer else FP32 * share)


def _buffers(run: Run, parameters: int) -> int:
    """DeepSpeed's reduction bucket, which bf16 at stage 1 does without, a second one where reductions overlap at stage
    2, and at stage 3 the weights fetched for use."""
    stage, size = run.parallel.zero_stage, element_size(run)
    own = run.training.precision == "bf16" and stage == 1 and not run.parallel.offload_optimizer
    if stage == 0 or own:
        return 0
    bucket = BUCKET * (FP32 if stage == 1 else size) * (2 if stage == 2 and run.parallel.overlaps else 1)
    return bucket + (size * min(parameters, LIVE) if stage == 3 else 0)


def _step_work(run: Run, parameters: int, share: int) -> int:
    """What reduction and step need beside the state: Adam the root of its second moment; fp32 at stage 1 its share of
    the gradients once more; and bf16 at stage 1 all gradients in bf16, in which they are reduced."""
    stage, adam = run.parallel.zero_stage, 0 if run.parallel.offload_optimizer else FP32 * share
    if stage == 0:
        return FP32 * parameters
    if stage > 1:
        return adam
    return 2 * adam if run.training.precision == "fp32" else max(adam, 2 * parameters)


def _waiting_gradient(run: Run) -> int:
    """A tied embedding has its gradient from the head long before the one from the input, and keeps it so long."""
    tied = run.model.padded_vocab_size * run.model.hidden_size // run.parallel.tensor
    return element_size(run) * tied if run.model.tie_embeddings else 0
