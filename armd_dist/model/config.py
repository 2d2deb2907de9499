"""Settings of the network."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelConfig(BaseModel):
    """The network: ARMD's two-stream transformer, or a baseline's denoiser. Names follow Megatron and Hugging Face."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    network: Literal["armd", "denoiser"] = Field(
        "armd",
        description="armd: the two-stream network, for every order (AR is two_stream_layers=0, left to right). "
        "denoiser: the bidirectional network of the masked-diffusion baselines, MDLM or, with orders.block_length, "
        "BD3-LM.",
    )
    vocab_size: int = Field(..., ge=2, description="Tokens of the tokenizer, special tokens included.")
    max_sequence_length: int = Field(1024, ge=1, description="Longest sequence, BOS not counted.")
    hidden_size: int = Field(768, ge=2)
    num_layers: int = Field(12, ge=1)
    num_attention_heads: int = Field(12, ge=1)
    num_key_value_heads: int | None = Field(
        None,
        ge=1,
        description="Heads of keys and values, each shared by a group of queries; null: num_attention_heads.",
    )
    qk_norm: bool = Field(False, description="Normalise queries and keys per head, for stable training at scale.")
    ffn_hidden_size: int | None = Field(
        None, ge=1, description="Width of the MLP; null: 4 x hidden_size, for swiglu 8/3 of it, to a multiple of 64."
    )
    activation: Literal["gelu", "swiglu"] = Field("gelu", description="Of the MLP; swiglu has a gate beside it.")
    normalization: Literal["rmsnorm", "layernorm"] = Field("rmsnorm", description="A layer norm has a bias with bias.")
    bias: bool = Field(
        False, description="Biases of the layers' linear maps and of layer norms, as GPT-2 has them; RMS norm has none."
    )
    two_stream_layers: int | None = Field(
        None, ge=0, description="Layers that carry both streams (L2s); null: half of num_layers, as in the paper."
    )
    query_context: Literal["neighbours", "linear", "both", "none"] = Field(
        "neighbours",
        description="What the query stream starts from: nearest visible tokens (our choice), "
        "the paper's linear prefix aggregation, the sum of both, or the position alone.",
    )
    position_embedding: Literal["learned", "rotary", "both"] = Field(
        "both", description="How a row knows its place in the text: a learned vector, rotation in attention, or both."
    )
    query_place: Literal["own", "previous"] = Field(
        "own",
        description="The place at which the query of token n stands: n, or n - 1 as the row of an AR model does, which "
        "reads the token before the one that it predicts. previous: for the weights of AR models (armd import).",
    )
    learned_order: bool = Field(
        False,
        description="Beside the denoiser two heads, each a layer and an MLP: one learns in which order a text is best "
        "generated, the other follows it from the masked text (LoMDM). Needs network: denoiser.",
    )
    order_centre: float = Field(
        0.7,
        gt=0,
        description="c1 of LoMDM: the mean of the exponents w = c1 + c2 (sigmoid(score) - mean) by which a learned "
        "order says how late a token is hidden, and so how early it is generated. The paper's best.",
    )
    order_spread: float = Field(
        0.65,
        ge=0,
        description="c2 of LoMDM, below order_centre: how far exponents may lie apart. 0: no order is learned, and "
        "with order_centre 1 the loss is MDLM's. The paper's best.",
    )
    hidden_dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout of embeddings and of what each attention and MLP adds."
    )
    tie_embeddings: bool = Field(True, description="Share the token embedding with the output head.")
    rope_theta: float = Field(10_000.0, gt=0, description="Base of the rotary position embedding.")
    norm_eps: float = Field(1e-5, gt=0)
    init_std: float = Field(0.02, gt=0, description="Standard deviation of initial weights; residual outputs get less.")
    mup_base_width: int | None = Field(
        None,
        ge=1,
        description="The hidden_size for which learning_rate and init_std were tuned: they then hold for a network of "
        "any width, by muP (arXiv 2203.03466), which scales initial weights, the learning rate of each kind of weight, "
        "attention and logits. Tune at 128 to 256, with the same depth. null: the standard parametrisation.",
    )
    pad_vocab_to: int = Field(
        128,
        ge=1,
        description="Embedding rows are padded to a multiple of this, so that every tensor-parallel size fits.",
    )

    @model_validator(mode="after")
    def fill(self) -> "ModelConfig":
        """Writes the derived defaults, so that run.yaml says what was used."""
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        if self.ffn_hidden_size is None:
            object.__setattr__(self, "ffn_hidden_size", self._default_ffn())
        if self.two_stream_layers is None:
            object.__setattr__(self, "two_stream_layers", self.num_layers // 2)
        return self

    def _default_ffn(self) -> int:
        """swiglu has three matrices where gelu has two, so that 8/3 of the width costs what 4 x costs there."""
        if self.activation == "gelu":
            return 4 * self.hidden_size
        wide = _round_up(8 * self.hidden_size, 3 * 64) // 3
        # A tiny network would get far more than 8/3: round it more finely.
        return wide if wide <= 4 * self.hidden_size else _round_up(8 * self.hidden_size, 3 * 8) // 3

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def num_positions(self) -> int:
        """Rows of the learned positions, BOS at place 0 included; with rotation alone one row for all places."""
        return 1 if self.position_embedding == "rotary" else self.max_sequence_length + 1

    @property
    def padded_vocab_size(self) -> int:
        return _round_up(self.vocab_size, self.pad_vocab_to)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
