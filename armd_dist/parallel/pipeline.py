"""Pipeline parallelism: Megatron-core's schedules (1F1B, interleaved) drive the stages that this process holds.

Between stages go hidden states, [rows, batch, hidden], both streams side by side along the batch in ARMD's lower half.
The interleaved schedule knows one shape only: there the query travels alone with zeros in the other stream's place.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import ModelParallelConfig, parallel_state
from megatron.core.enums import ModelType
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, nn

from armd_dist.model.denoiser import DenoiserLayout
from armd_dist.model.layout import Layout
from armd_dist.model.network import Network
from armd_dist.objectives.likelihood import Loss, MicroBatch
from armd_dist.parallel.cpu_shim import cuda_means_cpu
from armd_dist.parallel.layers import MegatronLayers
from armd_dist.parallel.progress import beat
from armd_dist.parallel.stages import streams_into
from armd_dist.run import Run

Read = TypeVar("Read")


class Part(nn.ModuleList):
    """The networks of the stages that this process holds, from the bottom: one, or several virtual stages."""

    def forward(self, micro_batch: MicroBatch, z_loss: float) -> Loss:
        """The loss, where one process holds the network in one piece.

        DeepSpeed fetches weights and watches gradients around this one call, however often it goes through the network.
        """
        return micro_batch.loss(self.networks[0], z_loss)

    @property
    def networks(self) -> list[Network]:
        return list(self)  # type: ignore[arg-type]

    def weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name in the whole network, parameter)."""
        for network in self.networks:
            yield from network.named_parameters()


@dataclass
class ScheduleConfig(ModelParallelConfig):
    """What Megatron's schedules read, beyond what its layers read."""

    hidden_size: int = 0
    fine_grained_activation_offloading: bool = False


class Chunk(nn.Module):
    """One stage as the schedules ask for it: rows come by `set_input_tensor`; rows go out, or logits from the last."""

    model_type = ModelType.encoder_or_decoder

    def __init__(self, network: Network, run: Run, config: ScheduleConfig) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.rows: Tensor | None = None
        stage = network.stage
        self.takes, self.gives = streams_into(run, stage.first), streams_into(run, stage.last)
        # Streams of the one shape that the interleaved schedule sends.
        self.sends = streams_into(run, 0) if run.parallel.virtual_pipeline > 1 else None

    def set_input_tensor(self, tensors: list[Tensor | None]) -> None:
        self.rows = tensors[0]

    def forward(self, layout: Layout | DenoiserLayout) -> Tensor:
        rows = self.rows
        if rows is not None and self.sends is not None:
            rows = rows[:, : rows.shape[1] * self.takes // self.sends]
        found = self.network(layout, rows=rows)
        if self.sends is None or self.network.stage.predicts:
            return found
        return F.pad(found, (0, 0, 0, found.shape[1] * (self.sends - self.gives)))


class Pipeline:
    """The schedule over this process' stages."""

    def __init__(self, run: Run, device: torch.device, layers: MegatronLayers, part: Part) -> None:
        self.run, self.device, self.layers = run, device, layers
        config = _schedule_config(run, next(part.parameters()).dtype)
        self.chunks: list[nn.Module] = [Chunk(network, run, config) for network in part.networks]
        self.interleaves = run.parallel.virtual_pipeline > 1

    def pass_through(self, micro_batches: Sequence[MicroBatch], backward: bool) -> Tensor:
        """Every micro-batch through all stages; mean nats per token on the last stage, 0 on the others.

        Leaves the gradient of the mean objective in the weights' .grad, unless `backward` is off. Collective over the
        pipeline.
        """
        found = self._run(micro_batches, self._training_step, forward_only=not backward)
        return torch.stack(found).mean() if found else torch.zeros((), device=self.device)

    def read(self, micro_batches: Sequence[MicroBatch], read: Callable[[MicroBatch, Tensor], Read]) -> list[Read]:
        """What `read` makes of each micro-batch and its logits, on the last stage; [] on the others. Without gradients.

        The micro-batches have one shape. Collective over the pipeline.
        """

        def step(remaining: Iterator[MicroBatch], chunk: Chunk) -> tuple[Tensor, Any]:
            micro_batch = next(remaining).to(self.device)
            return chunk(micro_batch.layout), lambda logits, non_loss_data: read(micro_batch, logits)

        return self._run(micro_batches, step, forward_only=True, collect_non_loss_data=True)

    def _run(self, micro_batches: Sequence[MicroBatch], step: Callable[..., Any], **how: Any) -> list[Any]:
        """Megatron's schedule; what `step`'s second function returned on the last stage, [] on the others."""
        iterators = [iter(micro_batches) for _ in self.chunks]
        sequences, rows = _shape(micro_batches[0])
        with cuda_means_cpu():
            return get_forward_backward_func()(
                forward_step_func=step,
                data_iterator=iterators if self.interleaves else iterators[0],
                model=self.chunks if self.interleaves else self.chunks[0],
                num_microbatches=len(micro_batches),
                seq_length=rows,
                micro_batch_size=sequences * streams_into(self.run, 0),
                adjust_tensor_shapes_fn=None if self.interleaves else self._shapes,
                **how,
            )

    def _training_step(self, micro_batches: Iterator[MicroBatch], chunk: Chunk) -> tuple[Tensor, Any]:
        beat()
        micro_batch = next(micro_batches).to(self.device)
        if self.layers.dropout is not None:
            self.layers.dropout.begin(micro_batch.first_sample)

        def loss(logits: Tensor) -> tuple[Tensor, Tensor]:
            found = micro_batch.loss_of(logits, self.layers, self.run.training.z_loss)
            return found.objective, found.nll

        return chunk(micro_batch.layout), loss

    def _shapes(self, received: list[tuple[int, ...]], _: Any) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """The shapes of what this stage receives and sends, from one with all streams."""
        (rows, batch, hidden), chunk = received[0], self.chunks[0]
        assert isinstance(chunk, Chunk)
        sequences = batch // streams_into(self.run, 0)
        return [(rows, sequences * chunk.takes, hidden)], [(rows, sequences * chunk.gives, hidden)]


def _shape(micro_batch: MicroBatch) -> tuple[int, int]:
    """Sequences, and rows of one stream."""
    sequences, rows = micro_batch.targets.shape
    clean = micro_batch.layout.clean_ids.shape[1] if isinstance(micro_batch.layout, DenoiserLayout) else 0
    return sequences, rows + clean


def _schedule_config(run: Run, dtype: torch.dtype) -> ScheduleConfig:
    parallel, virtual = run.parallel, run.parallel.virtual_pipeline
    return ScheduleConfig(
        hidden_size=run.model.hidden_size,
        tensor_model_parallel_size=parallel.tensor,
        sequence_parallel=parallel.sequence,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=virtual if virtual > 1 else None,
        pipeline_dtype=dtype,
        # Interleaved sends still read what would be freed (seen on gloo), and batched ones mix up the two neighbours of
        # a process where they are the same one.
        deallocate_pipeline_outputs=virtual == 1,
        batch_p2p_comm=virtual == 1,
        overlap_p2p_comm=virtual > 1,
        batch_p2p_sync=torch.cuda.is_available(),
    )


def mark_tied_copy(part: Part) -> None:
    """Marks the last stage's copy of a tied embedding, so that norms and saves count it once (DeepSpeed's mark)."""
    for network in part.networks:
        if network.stage.predicts and not network.stage.embeds and network.config.tie_embeddings:
            network.tokens.get_parameter("weight").ds_pipe_replicated = True  # type: ignore[attr-defined]


def is_tied_copy(parameter: Tensor) -> bool:
    return getattr(parameter, "ds_pipe_replicated", False)


def sum_tied_gradients(part: Part) -> None:
    """Adds up the gradients of a tied embedding's two copies, of the first and the last stage, in both of them."""
    for network in part.networks:
        if network.config.tie_embeddings and (network.stage.embeds or network.stage.predicts):
            weight = network.tokens.get_parameter("weight")
            # DeepSpeed's bf16 optimizer keeps the sum over micro-batches apart, in fp32.
            gradient = getattr(weight, "_hp_grad", None)
            dist.all_reduce(weight.grad if gradient is None else gradient, group=parallel_state.get_embedding_group())
