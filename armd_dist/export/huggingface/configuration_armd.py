"""Configuration of an exported ARMD model."""

from typing import Any

from transformers import PretrainedConfig


class ArmdConfig(PretrainedConfig):
    """The settings of the network, under the names that training uses."""

    model_type = "armd"

    def __init__(
        self,
        network: str = "armd",
        vocab_size: int = 32_000,
        max_sequence_length: int = 1024,
        hidden_size: int = 768,
        num_layers: int = 12,
        num_attention_heads: int = 12,
        num_key_value_heads: int | None = None,
        qk_norm: bool = False,
        ffn_hidden_size: int = 3072,
        activation: str = "gelu",
        normalization: str = "rmsnorm",
        bias: bool = False,
        two_stream_layers: int = 6,
        query_context: str = "neighbours",
        position_embedding: str = "both",
        query_place: str = "own",
        hidden_dropout: float = 0.0,
        tie_embeddings: bool = True,
        rope_theta: float = 10_000.0,
        norm_eps: float = 1e-5,
        init_std: float = 0.02,
        mup_base_width: int | None = None,
        pad_vocab_to: int = 1,
        trained: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.network = network
        self.vocab_size = vocab_size
        self.max_sequence_length = max_sequence_length
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.qk_norm = qk_norm
        self.ffn_hidden_size = ffn_hidden_size
        self.activation = activation
        self.normalization, self.bias = normalization, bias
        self.two_stream_layers = two_stream_layers
        self.query_context, self.query_place = query_context, query_place
        self.position_embedding = position_embedding
        self.hidden_dropout = hidden_dropout
        self.tie_embeddings = tie_embeddings
        self.rope_theta = rope_theta
        self.norm_eps, self.init_std, self.mup_base_width = norm_eps, init_std, mup_base_width
        self.pad_vocab_to = pad_vocab_to
        self.trained = trained or {}
        # The network ties its own weights; transformers must not do it a second time. No cache of its is used either.
        super().__init__(**{**kwargs, "tie_word_embeddings": False, "use_cache": False})

    @property
    def num_hidden_layers(self) -> int:
        """The name under which transformers' own tools look for num_layers."""
        return self.num_layers

    @property
    def max_position_embeddings(self) -> int:
        """The name under which transformers' own tools look for the longest input: a token less than there are places,
        as a window that lacks BOS gets it in front, and has a place for the token behind it."""
        return self.max_sequence_length - 1

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def num_positions(self) -> int:
        return 1 if self.position_embedding == "rotary" else self.max_sequence_length + 1

    @property
    def padded_vocab_size(self) -> int:
        return self.vocab_size
