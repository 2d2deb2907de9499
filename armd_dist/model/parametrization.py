"""How initial weights, learning rates and multipliers follow the width of the network.

With model.mup_base_width that is muP, in the form of table 8 of Tensor Programs V (Yang et al., arXiv 2203.03466):
learning rate and init_std then hold for every width. m = hidden_size / mup_base_width:

    weights                                       initial deviation    learning rate    multiplier
    hidden: the width is both dimensions          init_std / sqrt(m)   1 / m            1
    tables, vectors: it is one of them            init_std             1                1
    the head, on the table of tokens or its own   init_std             1                1 / m, of its logits
    a score: from the width to one number         init_std / m         1 / m            1

The score's row is table 3's form of the head's. Without the setting m is 1: the standard parametrisation.
"""

from math import sqrt

from armd_dist.model.config import ModelConfig

# Matrices with a row for each token, place or distance. All others lead from the width, and but for scores to it.
TABLES = ("tokens.weight", "head.weight", "positions.weight", "distance.weight", "mask.weight")
SCORES = ("score.weight",)
USUAL_HEAD_DIM = 64


def width_ratio(config: ModelConfig) -> float:
    """m, the width over the one that learning rate and init_std are meant for."""
    return config.hidden_size / (config.mup_base_width or config.hidden_size)


def is_matrix(name: str, dims: int) -> bool:
    """Whether this parameter leads from the width to somewhere. dims: its dimensions."""
    return dims > 1 and not name.endswith(TABLES)


def init_multiplier(name: str, dims: int, config: ModelConfig) -> float:
    """By what the initial deviation of this parameter is multiplied."""
    if not is_matrix(name, dims):
        return 1.0
    return 1 / width_ratio(config) if name.endswith(SCORES) else 1 / sqrt(width_ratio(config))


def rate_multiplier(name: str, dims: int, config: ModelConfig) -> float:
    """By what the learning rate of this parameter is multiplied. name: in the whole network; dims: its dimensions."""
    return 1 / width_ratio(config) if is_matrix(name, dims) else 1.0


def query_multiplier(config: ModelConfig) -> float:
    """By what queries are multiplied, beside the kernels' 1 / sqrt(head_dim).

    With muP scores are q k x 8 / head_dim: over head_dim (stated), and as usual for heads of 64 (the authors' package).
    """
    return 1.0 if config.mup_base_width is None else sqrt(USUAL_HEAD_DIM / config.head_dim)


def output_multiplier(config: ModelConfig) -> float:
    """By what logits are multiplied."""
    return 1 / width_ratio(config)
