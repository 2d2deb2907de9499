"""Settings of the distributed layout."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Recompute = Literal["none", "selective", "full"]


class ParallelConfig(BaseModel):
    """How one model is spread over processes. Data parallelism takes what tensor and pipeline parallelism leave."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    tensor: int = Field(1, ge=1, description="Tensor-parallel size (Megatron-core); neighbouring ranks, inside a node.")
    pipeline: int = Field(
        1, ge=1, description="Pipeline-parallel size: stages of whole layers, cut so that the dearest costs least."
    )
    virtual_pipeline: int = Field(
        1,
        ge=1,
        description="Stages that each pipeline-parallel process holds (interleaved schedule): a smaller bubble for "
        "more communication.",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        0,
        description="DeepSpeed ZeRO over data parallelism: 0 replicates everything, 1 shards the optimizer state, "
        "2 the gradients too, 3 the weights too; 3 is not for pipelines.",
    )
    overlap: bool = Field(
        True,
        description="ZeRO 2 and 3: reduce gradients while the backward pass goes on, through two buffers. Off: one "
        "buffer less, each reduction waited for.",
    )
    offload_optimizer: bool = Field(
        False, description="Keep the optimizer's state in host memory, and step there; needs zero_stage 1 to 3."
    )
    sequence: bool = Field(
        False,
        description="Sequence parallelism: between the split layers each tensor-parallel process keeps its share of "
        "the rows instead of all of them. Needs tensor of 2 or more.",
    )
    recompute: Recompute | list[Recompute] = Field(
        "none",
        description="full: keep each layer's input alone and compute the layer again in the backward pass; selective: "
        "keep all but the results of norms and activations, which cost little to compute again. A list has one for "
        "each pipeline rank: the first ones keep the most micro-batches.",
    )
    timeout_minutes: float = Field(
        10.0,
        gt=0,
        description="A process that shows no progress for so long ends the job; all say which, and show their stacks.",
    )

    @property
    def overlaps(self) -> bool:
        """Whether gradients are reduced beside the backward pass: stage 1 does it once a step, a pipeline behind its
        last pass."""
        return self.overlap and self.zero_stage >= 2 and self.pipeline == 1

    def recompute_at(self, pipeline_rank: int) -> Recompute:
        return self.recompute[pipeline_rank] if isinstance(self.recompute, list) else self.recompute
