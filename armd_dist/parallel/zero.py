"""DeepSpeed ZeRO under the model: its settings, and its state read and written parameter by parameter."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor, nn

from armd_dist.model.parameter_groups import parameter_groups
from armd_dist.model.parametrization import width_ratio
from armd_dist.parallel.engines import sparingly
from armd_dist.parallel.pipeline import Part
from armd_dist.parallel.sharding import local_shape
from armd_dist.run import Run

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read at DeepSpeed's import

import deepspeed
from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS
from deepspeed.utils import logger

with sparingly():
    import deepspeed.runtime.zero.muon.muon_optimizer  # otherwise DeepSpeed does it at its start

logger.setLevel(logging.WARNING)
if not torch.cuda.is_available():
    # Otherwise DeepSpeed compiles a shared-memory kernel at start, which needs ninja and a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

MOMENTS = ("exp_avg", "exp_avg_sq")
PARTS = ("weight", *MOMENTS)


class Adam(torch.optim.AdamW):
    """AdamW whose step does nothing while `skips` is set: DeepSpeed clears up behind it as behind any other step."""

    skips = False

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        return None if self.skips else super().step(closure)


ZERO_SUPPORTED_OPTIMIZERS.append(Adam)  # of any other one it says that it is untested


class MegatronGroups:
    """Tells DeepSpeed which processes Megatron put where: ZeRO shards over data parallelism alone."""

    get_data_parallel_group = staticmethod(parallel_state.get_data_parallel_group)
    get_data_parallel_rank = staticmethod(parallel_state.get_data_parallel_rank)
    get_data_parallel_world_size = staticmethod(parallel_state.get_data_parallel_world_size)
    get_model_parallel_group = staticmethod(parallel_state.get_model_parallel_group)
    get_model_parallel_rank = staticmethod(parallel_state.get_tensor_model_parallel_rank)
    get_model_parallel_world_size = staticmethod(parallel_state.get_tensor_model_parallel_world_size)
    get_tensor_model_parallel_group = staticmethod(parallel_state.get_tensor_model_parallel_group)
    get_tensor_model_parallel_rank = staticmethod(parallel_state.get_tensor_model_parallel_rank)
    get_tensor_model_parallel_world_size = staticmethod(parallel_state.get_tensor_model_parallel_world_size)


def settle(modules: Iterable[nn.Module], run: Run, device: torch.device) -> None:
    """Moves each module, which has its weights on the CPU, to where training wants them: to the device, in its type.

    Under stage 3 only this process' share of them stays, so that no process ever holds more than one module whole.
    """
    for module in modules:
        module.to(device, torch.bfloat16 if run.training.precision == "bf16" else torch.float32)
        if run.parallel.zero_stage == 3:
            group = parallel_state.get_data_parallel_group()
            deepspeed.zero.Init(module, data_parallel_group=group, config_dict_or_path=_deepspeed_config(run))


def make_deepspeed(model: Part, run: Run) -> Any:
    """The DeepSpeed engine around this process' part of the model, with AdamW as the run sets it."""
    training = run.training
    # Under muP every gradient falls as 1 / width (derived), so that without this eps would grow beside it (our choice).
    eps = training.adam_eps / width_ratio(run.model)
    optimizer = Adam(_parameter_groups(model, run), lr=0.0, betas=training.betas, eps=eps)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=_deepspeed_config(run), mpu=MegatronGroups()
    )
    _create_adam_state(engine)
    return engine


def _deepspeed_config(run: Run) -> dict[str, Any]:
    per_rank = run.training.global_batch_size // parallel_state.get_data_parallel_world_size()
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": per_rank,
        # The engine divides by the number of micro-batches and says which one is the last.
        "gradient_accumulation_steps": 1,
        # Stage 0 neither tells its gradient norm nor clips by it under tensor parallelism; the engine does both there.
        "gradient_clipping": run.training.clip_grad if run.parallel.zero_stage else 0.0,
        "zero_optimization": {
            "stage": run.parallel.zero_stage,
            "overlap_comm": run.parallel.overlaps,
            # Vectors are not worth fetching for each use; every matrix is.
            "stage3_param_persistence_threshold": run.model.hidden_size,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # its own CPU Adam must be compiled
        "steps_per_print": 2**62,
    }
    if run.parallel.offload_optimizer:
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if run.training.precision == "bf16":
        config["bf16"] = {"enabled": True, "immediate_grad_update": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def _parameter_groups(model: Part, run: Run) -> list[dict[str, Any]]:
    """As many on every pipeline stage: DeepSpeed sums the norm over the stages once for each group.

    Under muP a stage without embeddings has one kind less. There the largest is halved: which is which does not matter.
    """
    training = run.training
    heads = {"forward_order.": training.forward_order_rate, "reverse_order.": training.reverse_order_rate}
    named = ((name, parameter, len(local_shape(parameter))) for name, parameter in model.weights())
    groups = parameter_groups(named, run.model, training.weight_decay, heads)
    most = torch.tensor(len(groups), device=next(model.parameters()).device)
    dist.all_reduce(most, dist.ReduceOp.MAX, group=parallel_state.get_pipeline_model_parallel_group())
    for _ in range(int(most) - len(groups)):
        first = max(groups, key=lambda group: len(group["params"]))
        half = len(first["params"]) // 2
        groups.append({**first, "params": first["params"][half:]})
        first["params"] = first["params"][:half]
    return groups


@contextmanager
def backward_elsewhere(engine: Any) -> Iterator[None]:
    """Backward passes inside, unknown to the engine, add up in the weights' gradients, which it then reduces.

    The optimizer of bf16 at stage 1 has no such mode and needs none: it takes gradients up as they come.
    """
    waits = hasattr(engine.optimizer, "_coalesce_grad_reduction")
    with engine.coalesce_grad_reduction() if waits else nullcontext():
        yield
    engine.set_gradient_accumulation_boundary(True)
    if not waits:
        engine.allreduce_gradients()


def read_state(engine: Any, parts: Sequence[str] = PARTS) -> Iterator[tuple[str, Tensor, int, dict[str, Tensor]]]:
    """(name, parameter, start, {weight, exp_avg, exp_avg_sq}): of each parameter the state that this process keeps.

    Flat fp32 values, in place, to be saved or filled: the elements from `start` on of the tensor-parallel part, none
    where ZeRO keeps them all elsewhere, all of them without ZeRO. Not collective.
    """
    rank = parallel_state.get_data_parallel_rank()
    for name, parameter in engine.module.weights():
        if hasattr(parameter, "ds_id"):
            whole: int = parameter.ds_numel  # type: ignore[attr-defined]
            start = min(whole, parameter.ds_tensor.ds_numel * rank)  # type: ignore[attr-defined]
            values = {
                part: _partition(engine, parameter, part)[: whole - start] for part in parts
            }  # the last is padded
            yield name, parameter, start, values
        elif engine.zero_optimization():
            mapping = parameter._hp_mapping
            if mapping is not None:
                values = {part: mapping.get_hp_fragment(part if part in MOMENTS else None) for part in parts}
                yield name, parameter, mapping.lp_fragment_address.start, values
        else:
            values = {"weight": parameter.detach(), **engine.optimizer.state[parameter]}
            yield name, parameter, 0, {part: values[part].view(-1) for part in parts}


def _partition(engine: Any, parameter: Tensor, part: str) -> Tensor:
    """This process' share of one parameter's state under ZeRO 3. DeepSpeed's own getters copy it under offload."""
    key = part if part in MOMENTS else None
    return engine.optimizer._get_fp32_opt_state_partition(parameter, release_swap_buffers=True, optim_state_key=key)[0]


def go_on_from(engine: Any, step: int) -> None:
    """Takes up the state of `step` optimizer steps that a reader has put where `read_state` says. Collective.

    What the forward pass needs is made from the masters, as DeepSpeed does it at the end of every step: each process
    gives its share, so that no process reads more of a checkpoint than it keeps.
    """
    for adam in _torch_optimizer(engine).state.values():
        adam["step"].fill_(step)
    if engine.zero_optimization_stage() == 3:
        engine.optimizer._partition_all_parameters()
        for group in range(len(engine.optimizer.fp16_groups)):
            engine.optimizer._reassign_or_swap_out_partitioned_parameters(group)
        engine.optimizer.checkpoint_event_epilogue()  # gathers what stays whole with every process
    elif engine.zero_optimization():
        engine.optimizer.update_lp_params()


def _create_adam_state(engine: Any) -> None:
    """Creates Adam's state before the first step, as torch would at it.

    DeepSpeed links its fragments to that state after the first step of the *first* parameter group; the state of the
    other groups, not yet created then, would stay out of reach for checkpoints.
    """
    optimizer = _torch_optimizer(engine)
    # ZeRO 3 shows each flat group of parameters to the optimizer only while it steps.
    flat = getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)
    for parameter in flat or [parameter for group in optimizer.param_groups for parameter in group["params"]]:
        moments = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
        optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}
    if engine.zero_optimization() and flat is None:
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def steps_of(engine: Any) -> int:
    """Optimizer steps that made this state, as Adam counts them."""
    return max(int(adam["step"]) for adam in _torch_optimizer(engine).state.values())


def optimizer_step(engine: Any, skips: bool) -> None:
    """Takes a step; one that `skips` throws gradients away, and leaves weights, moments and Adam's count as they are.

    From stage 1 on DeepSpeed 0.19 does the same by itself where the norm is not finite. With offload it then leaves the
    sums of bf16 gradients behind, which every other step drops.
    """
    adam = _torch_optimizer(engine)
    adam.skips = skips
    engine.step()
    adam.skips = False
    if engine.zero_optimization_stage() < 3:
        sums = getattr(engine.optimizer, "averaged_gradients", {})
        sums.update(dict.fromkeys(sums))


def _torch_optimizer(engine: Any) -> Adam:
    return engine.optimizer.optimizer if engine.zero_optimization() else engine.optimizer
