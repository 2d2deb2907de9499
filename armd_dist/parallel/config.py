"""Settings of the distributed layout."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ParallelConfig(BaseModel):
    """How one model is spread over processes. Data parallelism takes what tensor parallelism leaves."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    tensor: int = Field(1, ge=1, description="Tensor-parallel size (Megatron-core); neighbouring ranks, inside a node.")
    zero_stage: Literal[0, 1] = Field(
        0, description="DeepSpeed ZeRO: 0 replicates the optimizer state, 1 shards it over data parallelism."
    )
    timeout_minutes: float = Field(10.0, gt=0, description="A collective that takes longer ends the run with an error.")
