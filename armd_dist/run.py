"""The Run: one tree of all settings."""

from pydantic import BaseModel, ConfigDict

from armd_dist.model.config import ModelConfig
from armd_dist.orders.config import OrdersConfig
from armd_dist.parallel.config import ParallelConfig
from armd_dist.training.config import (
    CheckpointConfig,
    DataConfig,
    HealthConfig,
    LoggingConfig,
    RunConfig,
    TrainingConfig,
    ValidationConfig,
)


class Run(BaseModel):
    """Everything that decides what a training run does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: RunConfig
    model: ModelConfig
    data: DataConfig
    orders: OrdersConfig = OrdersConfig.model_validate({})
    training: TrainingConfig
    parallel: ParallelConfig = ParallelConfig.model_validate({})
    checkpoint: CheckpointConfig = CheckpointConfig.model_validate({})
    validation: ValidationConfig = ValidationConfig.model_validate({})
    health: HealthConfig = HealthConfig.model_validate({})
    logging: LoggingConfig = LoggingConfig.model_validate({})
