"""One optimizer step over all processes. One process and 512 look the same from outside."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from armd_dist.model.network import Network, make_network
from armd_dist.objectives.likelihood import MicroBatch
from armd_dist.parallel.layers import MegatronLayers
from armd_dist.parallel.progress import beat, enter
from armd_dist.parallel.sequence import SequenceLayers
from armd_dist.parallel.sharding import as_global, full_shape, gradient_norm, initialize, local_shape
from armd_dist.parallel.topology import Topology
from armd_dist.parallel.zero import PARTS, make_deepspeed, read_state, write_state
from armd_dist.run import Run


@dataclass(frozen=True)
class StepResult:
    """loss: mean over the global batch, nats per token; grad_norm: of the whole model, before clipping."""

    loss: float
    grad_norm: float


class Engine:
    """The model with its optimizer on this process: accumulation, ZeRO, clipping and precision live in here."""

    def __init__(self, run: Run, topology: Topology) -> None:
        self.run = run
        self.topology = topology
        self.layers = (SequenceLayers if run.parallel.sequence else MegatronLayers)(run.parallel)
        model = make_network(run.model, self.layers)
        initialize(model, run.model, run.training.seed)
        self.zero = make_deepspeed(model.to(topology.device), run)
        self.model: Network = self.zero.module

    def train_step(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> StepResult:
        """One optimizer step on this process' part of the global batch."""
        total, count = torch.zeros((), dtype=torch.float64, device=self.topology.device), len(micro_batches)
        share = self.topology.tensor_rank if self.run.parallel.sequence else None
        for number, micro_batch in enumerate(micro_batches, start=1):
            seed_dropout(self.run.training.seed, micro_batch.first_sample, share)
            # Before each pass: from stage 2 on a pass hands its gradients on at once, below only the last one does.
            self.zero.set_gradient_accumulation_boundary(number == count)
            loss = micro_batch.to(self.topology.device).loss(self.zero, self.run.training.z_loss)
            self.zero.backward(loss.objective / count)
            total += loss.nll / count
            beat()
        enter("updating the weights")
        dist.all_reduce(total, group=parallel_state.get_data_parallel_group())
        return StepResult(loss=total.item() / self.topology.data_size, grad_norm=self._update(learning_rate))

    def _update(self, learning_rate: float) -> float:
        """Clips and applies the reduced gradient; returns its norm before clipping."""
        for group in self.zero.optimizer.param_groups:
            group["lr"] = learning_rate
        if self.run.parallel.zero_stage:
            self.zero.step()
            return float(self.zero.get_global_grad_norm())
        norm = gradient_norm(self.model)
        scale = (self.run.training.clip_grad / (norm + 1e-6)).clamp(max=1.0)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        self.zero.step()
        return norm.item()

    def state(self) -> dict[str, Tensor]:
        """Weights and Adam moments in fp32 by global name, as parts of whole tensors. Collective."""
        return {
            f"{part}/{name}": as_global(value, parameter)
            for name, parameter, values in read_state(self.zero)
            for part, value in values.items()
        }

    def empty_state(self) -> dict[str, Tensor]:
        """Tensors of the shapes of `state`, to be filled by a checkpoint's reader."""
        return {
            f"{part}/{name}": as_global(torch.zeros(local_shape(parameter)), parameter)
            for name, parameter in self.model.named_parameters()
            for part in PARTS
        }

    def load_state(self, step: int, state: dict[str, Tensor]) -> None:
        """Continues from `state`, which `step` optimizer steps made."""
        local = {key: value.to_local() for key, value in state.items()}  # type: ignore[attr-defined]
        names = [name for name, _ in self.model.named_parameters()]
        write_state(self.zero, step, {name: {part: local[f"{part}/{name}"] for part in PARTS} for name in names})

    def num_parameters(self) -> int:
        """Parameters of the whole model."""
        return sum(torch.Size(full_shape(parameter)).numel() for parameter in self.model.parameters())


def seed_dropout(seed: int, first_sample: int, share: int | None = None) -> None:
    """Dropout of a micro-batch follows from the seed and its first sample's global number: another one elsewhere, and
    the same again after a resume. Tensor-parallel processes hold the same hidden states and drop the same numbers;
    under sequence parallelism each has rows of its own, and draws by its `share` of them."""
    key = f"dropout/{seed}/{first_sample}" + ("" if share is None else f"/{share}")
    torch.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1)
