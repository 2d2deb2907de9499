"""The learning rate, as a function of the step alone."""

import math

from armd_dist.training.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of `step` (0-based): linear warm-up, then constant, cosine or linear decay over training.steps."""
    peak, floor = config.learning_rate, config.min_learning_rate
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    if config.decay == "constant":
        return peak
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    left = (1 + math.cos(math.pi * done)) / 2 if config.decay == "cosine" else 1 - done
    return floor + (peak - floor) * left
