"""One optimizer step over all processes. One process and 512 look the same from outside."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from armd_dist.checkpoint.pieces import Piece
from armd_dist.model.network import make_network
from armd_dist.model.two_stream import Layer
from armd_dist.objectives.likelihood import Loss, MicroBatch
from armd_dist.parallel.dropout import Dropout
from armd_dist.parallel.engines import parallel_state
from armd_dist.parallel.layers import MegatronLayers
from armd_dist.parallel.pipeline import Part, Pipeline, is_tied_copy, mark_tied_copy, sum_tied_gradients
from armd_dist.parallel.progress import beat, enter
from armd_dist.parallel.sequence import SequenceLayers
from armd_dist.parallel.sharding import as_piece, gradient_norm, initialize, num_parameters, split_dim
from armd_dist.parallel.stages import stages_of
from armd_dist.parallel.topology import Topology
from armd_dist.parallel.zero import backward_elsewhere, go_on_from, make_deepspeed, read_state, settle
from armd_dist.run import Run


@dataclass(frozen=True)
class StepResult:
    """loss: mean over the global batch, nats per token; grad_norm: of the whole model, before clipping."""

    loss: float
    grad_norm: float


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

    def train_step(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> StepResult:
        """One optimizer step on this process' part of the global batch."""
        if self.pipeline is None:
            total = self._accumulate(micro_batches)
        else:
            total = self._accumulate_in_stages(micro_batches, self.pipeline).double()
        enter("updating the weights")
        return StepResult(loss=self._over_all(total), grad_norm=self._update(learning_rate))

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
        return self._over_all(total)

    def _over_all(self, mean: Tensor) -> float:
        """From the mean of each data-parallel process' part to that of the global batch."""
        dist.all_reduce(mean, group=parallel_state.get_data_parallel_group())
        # Of all stages the last one alone knows the loss; the others add nothing.
        dist.all_reduce(mean, group=parallel_state.get_pipeline_model_parallel_group())
        return mean.item() / self.topology.data_size

    def _loss(self, micro_batch: MicroBatch) -> Loss:
        if self.layers.dropout is not None:
            self.layers.dropout.begin(micro_batch.first_sample)
        here = micro_batch.to(self.topology.device)
        loss = here.loss_of(self.zero(here.layout), self.layers, self.run.training.z_loss)
        beat()
        return loss

    def _accumulate(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Gradients of all micro-batches, reduced; the mean of their nats per token."""
        total, count = torch.zeros((), dtype=torch.float64, device=self.topology.device), len(micro_batches)
        for number, micro_batch in enumerate(micro_batches, start=1):
            # Before each pass: from stage 2 on a pass hands its gradients on at once, below only the last one does.
            self.zero.set_gradient_accumulation_boundary(number == count)
            loss = self._loss(micro_batch)
            self.zero.backward(loss.objective / count)
            total += loss.nll / count
            beat()
        return total

    def _accumulate_in_stages(self, micro_batches: Sequence[MicroBatch], pipeline: Pipeline) -> Tensor:
        with backward_elsewhere(self.zero):
            loss = pipeline.pass_through(micro_batches, backward=True)
            sum_tied_gradients(self.part)
        return loss

    def _update(self, learning_rate: float) -> float:
        """Clips and applies the reduced gradient; returns its norm before clipping."""
        for group in self.zero.optimizer.param_groups:
            group["lr"] = learning_rate
        if self.run.parallel.zero_stage:
            self.zero.step()
            return float(self.zero.get_global_grad_norm())
        norm = gradient_norm(self.part)
        scale = (self.run.training.clip_grad / (norm + 1e-6)).clamp(max=1.0)
        for parameter in self.part.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        self.zero.step()
        return norm.item()

    def state(self) -> Iterator[tuple[str, Piece]]:
        """(`weight/NAME`, `exp_avg/NAME` or `exp_avg_sq/NAME`, fp32 values): all processes together have each once.

        The values may be the optimizer's own: copy them before the next step. Not collective.
        """
        for key, piece, parameter in self._kept():
            if not is_tied_copy(parameter) and (self.topology.tensor_rank == 0 or split_dim(parameter) is not None):
                # Without ZeRO every data-parallel process keeps all of it, and saves a share.
                alone = self.run.parallel.zero_stage > 0
                yield key, piece if alone else piece.share(self.topology.data_rank, self.topology.data_size)

    def places(self) -> dict[str, Piece]:
        """Under the same names all that this process keeps, in place: to be filled, before `go_on_from`."""
        return {key: piece for key, piece, _ in self._kept()}

    def go_on_from(self, step: int) -> None:
        """Continues from what has been put into `places`, which `step` optimizer steps made. Collective."""
        go_on_from(self.zero, step)

    def _kept(self) -> Iterator[tuple[str, Piece, Tensor]]:
        for name, parameter, start, values in read_state(self.zero):
            for part, value in values.items():
                yield f"{part}/{name}", as_piece(value, parameter, start), parameter

    def num_parameters(self) -> int:
        """Parameters of the whole model. Collective."""
        return num_parameters(self.part)


def _make_layers(run: Run, topology: Topology) -> MegatronLayers:
    share = topology.tensor_rank if run.parallel.sequence else None
    dropout = Dropout(run.training.seed, share) if run.model.hidden_dropout else None
    return (SequenceLayers if run.parallel.sequence else MegatronLayers)(run.parallel, dropout)
