"""One optimizer step over all processes. One process and 512 look the same from outside."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from armd_dist.checkpoint.pieces import Piece
from armd_dist.model.network import make_network
from armd_dist.model.parameter_groups import set_learning_rate
from armd_dist.model.two_stream import Layer
from armd_dist.objectives.likelihood import Loss, MicroBatch
from armd_dist.parallel.average import Average
from armd_dist.parallel.dropout import Dropout
from armd_dist.parallel.engines import parallel_state
from armd_dist.parallel.layers import MegatronLayers
from armd_dist.parallel.lost_numbers import Culprit, culprit, gradients_watched
from armd_dist.parallel.pipeline import Part, Pipeline, is_tied_copy, mark_tied_copy, sum_tied_gradients
from armd_dist.parallel.progress import beat, enter
from armd_dist.parallel.sequence import SequenceLayers
from armd_dist.parallel.sharding import as_piece, gradient_norm, initialize, num_parameters, split_dim
from armd_dist.parallel.stages import stages_of
from armd_dist.parallel.topology import Topology
from armd_dist.parallel.zero import (
    PARTS,
    backward_elsewhere,
    go_on_from,
    make_deepspeed,
    optimizer_step,
    read_state,
    settle,
    steps_of,
)
from armd_dist.run import Run

LOSS = "loss"


@dataclass(frozen=True)
class StepResult:
    """loss: mean over the global batch, nats per token; grad_norm: of the whole model, before clipping; figures: as of
    `Loss`, means over the global batch.

    The same on all processes, so that they agree on an update to be skipped.
    """

    loss: float
    grad_norm: float
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Engine:
    """The model with its optimizer on this process: stages, accumulation, ZeRO, clipping and precision live in here."""

    def __init__(self, run: Run, topology: Topology) -> None:
        self.run = run
        self.topology = topology
        self.layers = _make_layers(run, topology)
        mine = stages_of(run)[topology.pipeline_rank :: topology.pipeline_size]
        part = Part(make_network(run.model, self.layers, stage) for stage in mine)
        mark_tied_copy(part)
        settle(initialize(part, run.model, run.training.seed), run, topology.device)
        if run.training.compile:
            for layer in (module for module in part.modules() if isinstance(module, Layer)):
                layer.compile()
        self.zero = make_deepspeed(part, run)
        self.part: Part = self.zero.module
        self.pipeline = Pipeline(run, topology.device, self.layers, self.part) if topology.pipeline_size > 1 else None
        self.skipped_updates = 0  # since the run began
        self.average = None if run.training.ema_decay is None else Average(run.training.ema_decay)
        self.begin_average()

    def train_step(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> StepResult:
        """One optimizer step on this process' part of the global batch.

        Where the loss or the gradient norm is not finite, nothing is changed on any process, and that is counted.
        """
        loss, figures = self._over_all(self._gradients(micro_batches))
        enter("updating the weights")
        set_learning_rate(self.zero.optimizer.param_groups, learning_rate)
        result = StepResult(loss, self._update(skips=not math.isfinite(loss)), figures)
        self.skipped_updates += not result.finite
        return result

    def repeat(self, micro_batches: Sequence[MicroBatch]) -> tuple[StepResult, Culprit | None]:
        """What a step on these micro-batches comes to, and where it loses its numbers. Changes nothing. Collective."""
        with gradients_watched(self.part) as found:
            loss, _ = self._over_all(self._gradients(micro_batches))
        result = StepResult(loss, grad_norm=self._update(skips=True))
        return result, culprit(found, micro_batches, self.topology)

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> float:
        """Mean nats per token of a global batch, of which this process gives its part. Changes nothing. Collective."""
        self.zero.eval()
        if self.pipeline is None:
            losses = [self._loss(micro_batch).nll for micro_batch in micro_batches]
            total = torch.stack(losses).double().mean()
        else:
            total = self.pipeline.pass_through(micro_batches, backward=False).double()
        self.zero.train()
        return self._over_all({LOSS: total})[0]

    def _over_all(self, means: dict[str, Tensor]) -> tuple[float, dict[str, float]]:
        """The loss and the other figures: from the means of each data-parallel process' part to those of the batch."""
        values = torch.stack(list(means.values()))
        dist.all_reduce(values, group=parallel_state.get_data_parallel_group())
        # Of all stages the last one alone knows the loss; the others add nothing.
        dist.all_reduce(values, group=parallel_state.get_pipeline_model_parallel_group())
        found = dict(zip(means, (values / self.topology.data_size).tolist(), strict=True))
        return found.pop(LOSS), found

    def _loss(self, micro_batch: MicroBatch) -> Loss:
        if self.layers.dropout is not None:
            self.layers.dropout.begin(micro_batch.first_sample)
        here = micro_batch.to(self.topology.device)
        loss: Loss = self.zero(here, self.run.training.z_loss)
        beat()
        return loss

    def _gradients(self, micro_batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        """Gradients of all micro-batches, reduced; the means of their figures, LOSS the nats per token (0 but on the
        last stage)."""
        if self.pipeline is None:
            return self._accumulate(micro_batches)
        return {LOSS: self._accumulate_in_stages(micro_batches, self.pipeline).double()}

    def _accumulate(self, micro_batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        nothing, count = torch.zeros((), dtype=torch.float64, device=self.topology.device), len(micro_batches)
        means: dict[str, Tensor] = {}
        for number, micro_batch in enumerate(micro_batches, start=1):
            # Before each pass: from stage 2 on a pass hands its gradients on at once, below only the last one does.
            self.zero.set_gradient_accumulation_boundary(number == count)
            loss = self._loss(micro_batch)
            self.zero.backward(loss.objective / count)
            for name, value in ({LOSS: loss.nll} | loss.figures).items():
                means[name] = means.get(name, nothing) + value / count
            beat()
        return means

    def _accumulate_in_stages(self, micro_batches: Sequence[MicroBatch], pipeline: Pipeline) -> Tensor:
        with backward_elsewhere(self.zero):
            loss = pipeline.pass_through(micro_batches, backward=True)
            sum_tied_gradients(self.part)
        return loss

    def _update(self, skips: bool) -> float:
        """Clips and applies the reduced gradient; returns its norm before clipping.

        Changes nothing if `skips`, or if the norm is not finite (from stage 1 on DeepSpeed sees to that, and says inf).
        """
        if self.run.parallel.zero_stage:
            self._step(skips)
            return float(self.zero.get_global_grad_norm())
        norm = gradient_norm(self.part)
        scale = (self.run.training.clip_grad / (norm + 1e-6)).clamp(max=1.0)
        for parameter in self.part.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        self._step(skips or not bool(norm.isfinite()))
        return norm.item()

    def _step(self, skips: bool) -> None:
        """The optimizer's step, and behind it the average's, unless the optimizer has left its own out."""
        before = steps_of(self.zero)
        optimizer_step(self.zero, skips)
        if self.average is not None and (step := steps_of(self.zero)) > before:
            self.average.follow(self._saved(["weight"]), step)

    def begin_average(self) -> None:
        """Starts the average, where the run has one, from the weights as they are."""
        if self.average is not None:
            self.average.start(self._saved(["weight"]))

    def state(self) -> Iterator[tuple[str, Piece]]:
        """(`weight/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME` or, where there is an average, `ema/NAME`; fp32 values):
        all processes together have each once.

        The values may be the optimizer's own: copy them before the next step. Not collective.
        """
        yield from self._saved(PARTS)
        if self.average is not None:
            yield from self.average.pieces.items()

    def places(self) -> dict[str, Piece]:
        """Under the same names all that this process keeps, in place: to be filled, before `go_on_from`."""
        kept = {key: piece for key, piece, _ in self._kept(PARTS)}
        return kept if self.average is None else kept | self.average.pieces

    def go_on_from(self, step: int) -> None:
        """Continues from what has been put into `places`, which `step` optimizer steps made. Collective."""
        go_on_from(self.zero, step)

    def _saved(self, parts: Sequence[str]) -> Iterator[tuple[str, Piece]]:
        """Of what this process keeps the part that it saves, and no other one."""
        for key, piece, parameter in self._kept(parts):
            if not is_tied_copy(parameter) and (self.topology.tensor_rank == 0 or split_dim(parameter) is not None):
                # Without ZeRO every data-parallel process keeps all of it, and saves a share.
                alone = self.run.parallel.zero_stage > 0
                yield key, piece if alone else piece.share(self.topology.data_rank, self.topology.data_size)

    def _kept(self, parts: Sequence[str]) -> Iterator[tuple[str, Piece, Tensor]]:
        for name, parameter, start, values in read_state(self.zero, parts):
            for part, value in values.items():
                yield f"{part}/{name}", as_piece(value, parameter, start), parameter

    def num_parameters(self) -> int:
        """Parameters of the whole model. Collective."""
        return num_parameters(self.part)


def _make_layers(run: Run, topology: Topology) -> MegatronLayers:
    share = topology.tensor_rank if run.parallel.sequence else None
    dropout = Dropout(run.training.seed, share) if run.model.hidden_dropout else None
    return (SequenceLayers if run.parallel.sequence else MegatronLayers)(run.parallel, dropout)
