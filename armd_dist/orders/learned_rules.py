"""Rules of a learned order (LoMDM): what it needs of the network, of its own constants, of the data and the layout."""

from armd_dist.errors import Problem
from armd_dist.model.config import ModelConfig
from armd_dist.orders.config import OrdersConfig
from armd_dist.parallel.config import ParallelConfig
from armd_dist.training.config import DataConfig, TrainingConfig


def learned_order_problems(
    model: ModelConfig, orders: OrdersConfig, training: TrainingConfig, data: DataConfig, parallel: ParallelConfig
) -> list[Problem]:
    """What contradicts each other in the settings of one run."""
    if not model.learned_order:
        return _of_nothing(training)
    problems = []
    if model.network != "denoiser":
        rule = f"reads an order off the denoiser, and model.network={model.network} is none"
        problems.append(Problem("model.learned_order", True, rule, "use model.network=denoiser"))
    if model.order_spread >= model.order_centre:
        rule = f"is not below model.order_centre={model.order_centre}, so that exponents may be zero or negative"
        problems.append(Problem("model.order_spread", model.order_spread, rule, "use c1 > c2, as 0.7 and 0.65"))
    if orders.block_length is not None:
        rule = "cuts texts into windows left to right, and model.learned_order orders the whole of them"
        problems.append(Problem("orders.block_length", orders.block_length, rule, "use orders.block_length=null"))
    if data.within_document:
        rule = "keeps documents apart, and model.learned_order orders all tokens of a sample against each other"
        problems.append(Problem("data.attention", data.attention, rule, "use data.attention=across_documents"))
    if parallel.pipeline > 1:
        rule = (
            "hands each micro-batch through the stages once, and model.learned_order needs a pass through all of them "
            "before it knows what the next one masks"
        )
        problems.append(Problem("parallel.pipeline", parallel.pipeline, rule, "use parallel.pipeline=1"))
    return problems


def _of_nothing(training: TrainingConfig) -> list[Problem]:
    rates = {name: getattr(training, name) for name in ("forward_order_rate", "reverse_order_rate")}
    rule, remedy = "is of a head that the network does not have", "leave it out, or use model.learned_order=true"
    return [Problem(f"training.{name}", rate, rule, remedy) for name, rate in rates.items() if rate != 1]
