"""What a network costs, from its settings alone: parameters, and FLOPs of a pass.

FLOPs are those of matrix products, two for a multiply-add, as `torch.utils.flop_counter` counts them. Norms, softmax,
rotation and the like are not counted, and embeddings are look-ups: 0. Attention counts as the full square of rows and
keys; the causal kernel, which runs wherever blocks hold one token, really does about half of that part. Both streams
count, and tokens are those of the text, once, so that networks are compared by what learning from a token costs.
"""

from armd_dist.model.config import ModelConfig


def num_parameters(config: ModelConfig, padded: bool = False) -> int:
    """Parameters of the whole network. `padded`: with the rows that fill up the vocabulary, as in training."""
    hidden = config.hidden_size
    vocabulary = config.padded_vocab_size if padded else config.vocab_size
    embeddings = config.num_positions + vocabulary * (1 if config.tie_embeddings else 2)
    if config.network == "denoiser":
        extra = hidden  # the mask's vector
    else:
        distances = config.max_sequence_length + 1 if config.query_context in ("neighbours", "both") else 0
        extra = _context_matrices(config) + distances * hidden
    layer = layer_split(config) + layer_whole(config)
    heads = 2 * (layer + order_head_whole(config)) if config.learned_order else 0
    return embeddings * hidden + extra + config.num_layers * layer + last_norm(config) + heads


def order_head_whole(config: ModelConfig) -> int:
    """Weights of a learned order's head beside those of its layer: the MLP and its norm, which every process has."""
    return last_norm(config) + config.hidden_size**2 + config.hidden_size


def layer_split(config: ModelConfig) -> int:
    """Weights of a layer that tensor parallelism splits: its matrices, and biases of split outputs."""
    assert config.ffn_hidden_size is not None, "ModelConfig fills it"
    up = config.ffn_hidden_size * (2 if config.activation == "swiglu" else 1)
    biases = config.hidden_size + _keys_values(config) + up if config.bias else 0
    return _row_matrices(config) + _key_matrices(config) + biases


def layer_whole(config: ModelConfig) -> int:
    """Weights of a layer that every process has: its norms, and biases of whole outputs."""
    biases = 2 * config.hidden_size if config.bias else 0
    return 2 * last_norm(config) + (2 * config.head_dim if config.qk_norm else 0) + biases


def last_norm(config: ModelConfig) -> int:
    """Weights of a norm of hidden states."""
    return config.hidden_size * (2 if config.bias and config.normalization == "layernorm" else 1)


def forward_flops(config: ModelConfig, length: int, block_length: int | None = None) -> int:
    """One forward pass over one sequence of `length` tokens.

    block_length: windows of a block-diffusion denoiser (None: the whole sequence is one). Its rows are the text, behind
    BOS and a clean copy of all windows but the last.
    """
    return sum(flops_by_layers(config, length, block_length))


def flops_by_layers(config: ModelConfig, length: int, block_length: int | None = None) -> list[int]:
    """`forward_flops` of every layer from the bottom; what embeds is in the first one, the head in the last, and there
    too the one that follows a learned order."""
    costs = _denoiser_layers(config, length, block_length) if config.network == "denoiser" else _layers(config, length)
    costs[0] += 0 if config.network == "denoiser" else _context_flops(config, length)
    costs[-1] += 2 * length * config.hidden_size * config.padded_vocab_size
    costs[-1] += _order_head_flops(config, length) if config.learned_order else 0
    return costs


def _layers(config: ModelConfig, length: int) -> list[int]:
    assert config.two_stream_layers is not None, "ModelConfig fills it"
    # The last two-stream layer has query rows alone, and so costs as much as an upper one.
    double = max(config.two_stream_layers - 1, 0)
    both_streams = _layer_flops(config, 2 * length, keys=length)
    one_stream = _layer_flops(config, length, keys=length)
    return [both_streams] * double + [one_stream] * (config.num_layers - double)


def _denoiser_layers(config: ModelConfig, length: int, block_length: int | None) -> list[int]:
    clean = 1 + (length - 1) // (block_length or length) * (block_length or length)
    clean_keys = 2 * clean * _key_matrices(config)
    of_clean = _layer_flops(config, clean, keys=clean)
    of_text = _layer_flops(config, length, keys=clean + length) - clean_keys
    # After the last layer nobody reads the clean rows: there they are keys and values alone.
    return [of_clean + of_text] * (config.num_layers - 1) + [of_text + clean_keys]


def _order_head_flops(config: ModelConfig, length: int) -> int:
    return _layer_flops(config, length, keys=length) + 2 * length * (config.hidden_size**2 + config.hidden_size)


def forward_flops_per_token(config: ModelConfig, length: int, block_length: int | None = None) -> float:
    """`forward_flops` for each of the `length` tokens of the text; a denoiser is scored on the masked ones alone."""
    return forward_flops(config, length, block_length) / length


def training_flops_per_token(config: ModelConfig, length: int, block_length: int | None = None) -> float:
    """Forward and backward pass: 3 x forward, as each product has two in its gradient. Nothing is recomputed.

    A learned order has three passes through the network: two of masked texts, each of them so; and one of the text,
    which keeps no gradient and needs no logits, for the head that reads it.
    """
    masked = 3 * forward_flops_per_token(config, length, block_length)
    if not config.learned_order:
        return masked
    return 2 * masked + (sum(_denoiser_layers(config, length, None)) + 3 * _order_head_flops(config, length)) / length


def _layer_flops(config: ModelConfig, rows: int, keys: int) -> int:
    """A layer that computes keys and values of `keys` rows, on which `rows` rows attend and run through the MLP."""
    scores_and_mixture = 2 * rows * keys * config.hidden_size * 2
    return 2 * (rows * _row_matrices(config) + keys * _key_matrices(config)) + scores_and_mixture


def _row_matrices(config: ModelConfig) -> int:
    """Weights of a layer's matrices that work on attending rows: query, output projection and MLP."""
    assert config.ffn_hidden_size is not None, "ModelConfig fills it"
    in_mlp = 3 if config.activation == "swiglu" else 2
    return 2 * config.hidden_size**2 + in_mlp * config.hidden_size * config.ffn_hidden_size


def _key_matrices(config: ModelConfig) -> int:
    """Weights of a layer's matrix that makes keys and values."""
    return config.hidden_size * _keys_values(config)


def _keys_values(config: ModelConfig) -> int:
    """Width of keys and values together."""
    assert config.num_key_value_heads is not None, "ModelConfig fills it"
    return 2 * config.num_key_value_heads * config.head_dim


def _context_matrices(config: ModelConfig) -> int:
    """Weights of the query context's maps: left and right neighbour, mixture of the linear one."""
    maps = {"none": 0, "neighbours": 2, "linear": 1, "both": 3}[config.query_context]
    return maps * config.hidden_size**2


def _context_flops(config: ModelConfig, length: int) -> int:
    """The maps, and for the linear context every row's weights of all tokens and their sum."""
    square = 2 * length * length * config.hidden_size * 2 if config.query_context in ("linear", "both") else 0
    return 2 * length * _context_matrices(config) + square
