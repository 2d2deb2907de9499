"""Memory of one process while it trains, part by part, in bytes.

Weights, gradients and optimizer state are what DeepSpeed 0.19 really holds under `parallel/zero.py` (tests measure it):
gradients accumulate in fp32, and every fp32 stage keeps the flat fp32 weights of its share a second time.
"""

from dataclasses import dataclass

from armd_dist.model.config import ModelConfig
from armd_dist.model.cost import num_parameters
from armd_dist.run import Run
from armd_dist.scaling.activations import (
    FP32,
    Kept,
    element_size,
    kept_by_embedding,
    kept_by_head,
    kept_by_layers,
    logits_peak,
)

BUCKET = 500_000_000  # elements of DeepSpeed's reduce_bucket_size, allocated whole
LIVE = 1_000_000_000  # elements of its stage3_max_live_parameters


@dataclass(frozen=True)
class Memory:
    """weights to buffers stay for the whole run; activations, logits and work live in a pass; step_work in a step.

    logits and work do not live at once, nor do a pass and a step. host: bytes in host memory, for an offloaded
    optimizer. recomputed: what the activations would be if layers were recomputed; layers: one by one, from the bottom.
    """

    weights: int
    gradients: int
    master_weights: int
    adam_moments: int
    buffers: int
    activations: int
    recomputed: int
    logits: int
    work: int
    step_work: int
    host: int
    layers: list[Kept]
    embedding: int
    head: int

    @property
    def state(self) -> int:
        """What stays from one step to the next."""
        return self.weights + self.gradients + self.master_weights + self.adam_moments + self.buffers

    @property
    def total(self) -> int:
        """The most that is there at once."""
        return self.state + max(self.activations + max(self.logits, self.work), self.step_work)


def local_parameters(model: ModelConfig, tensor: int) -> int:
    """Parameters of one tensor-parallel process: norms, places and the query context whole, all else its share."""
    maps = {"none": 0, "neighbours": 2, "linear": 1, "both": 3}[model.query_context]
    distances = model.max_sequence_length + 1 if model.query_context in ("neighbours", "both") else 0
    if model.network == "denoiser":
        maps, distances = 0, 1  # the mask's vector
    norms = model.num_layers * (2 * model.hidden_size + (2 * model.head_dim if model.qk_norm else 0))
    hidden = model.hidden_size
    whole = (model.num_positions + distances + 1) * hidden + maps * hidden**2 + norms
    return whole + (num_parameters(model, padded=True) - whole) // tensor


def memory_of(run: Run, data_size: int) -> Memory:
    """The largest of all processes, with `data_size` data-parallel ones."""
    parallel, size = run.parallel, element_size(run)
    stage, parameters = parallel.zero_stage, local_parameters(run.model, parallel.tensor)
    share = -(-parameters // data_size)
    offload = parallel.offload_optimizer
    state = 3 * FP32 * share if stage else 2 * FP32 * parameters  # stage 0 steps on the weights themselves
    layers, ends = kept_by_layers(run), (kept_by_embedding(run), kept_by_head(run))
    recomputed = sum(ends) + sum(layer.boundary for layer in layers) + max(layer.kept for layer in layers)
    full = parallel.recompute == "full"
    return Memory(
        weights=size * (share if stage == 3 else parameters),
        gradients=_gradients(run, parameters, share),
        master_weights=0 if offload or not stage else FP32 * share,
        adam_moments=0 if offload else 2 * FP32 * (share if stage else parameters),
        buffers=_buffers(run, parameters),
        activations=recomputed if full else sum(ends) + sum(layer.kept for layer in layers),
        recomputed=recomputed,
        logits=logits_peak(run),
        work=max(layer.work for layer in layers) + _waiting_gradient(run),
        step_work=_step_work(run, parameters, share),
        host=state + FP32 * share if offload else 0,
        layers=layers,
        embedding=ends[0],
        head=ends[1],
    )


def _gradients(run: Run, parameters: int, share: int) -> int:
    """In fp32: of everything below stage 2, of the process' share from there on; on the host with the optimizer."""
    if run.parallel.zero_stage < 2:
        return FP32 * parameters
    return 0 if run.parallel.offload_optimizer else FP32 * share


def _buffers(run: Run, parameters: int) -> int:
    """DeepSpeed's reduction bucket, which bf16 at stage 1 does without, and at stage 3 the weights fetched for use."""
    stage, size = run.parallel.zero_stage, element_size(run)
    own = run.training.precision == "bf16" and stage == 1 and not run.parallel.offload_optimizer
    if stage == 0 or own:
        return 0
    bucket = BUCKET * (FP32 if stage == 1 else size)
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
