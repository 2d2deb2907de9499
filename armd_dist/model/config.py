"""Settings of the network."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelConfig(BaseModel):
    """The two-stream ARMD transformer. Names follow Megatron and Hugging Face."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    vocab_size: int = Field(..., ge=2, description="Tokens of the tokenizer, special tokens included.")
    max_sequence_length: int = Field(1024, ge=1, description="Longest sequence, BOS not counted.")
    hidden_size: int = Field(768, ge=2)
    num_layers: int = Field(12, ge=1)
    num_attention_heads: int = Field(12, ge=1)
    ffn_hidden_size: int | None = Field(None, ge=1, description="Width of the MLP; null: 4 x hidden_size.")
    two_stream_layers: int | None = Field(
        None, ge=0, description="Layers that carry both streams (L2s); null: half of num_layers, as in the paper."
    )
    query_context: Literal["neighbours", "linear", "none"] = Field(
        "neighbours",
        description="What the query stream starts from: nearest visible tokens (our choice), "
        "the paper's linear prefix aggregation, or the position alone.",
    )
    tie_embeddings: bool = Field(True, description="Share the token embedding with the output head.")
    rope_theta: float = Field(10_000.0, gt=0, description="Base of the rotary position embedding.")
    norm_eps: float = Field(1e-5, gt=0)
    init_std: float = Field(0.02, gt=0, description="Standard deviation of initial weights; residual outputs get less.")
    pad_vocab_to: int = Field(
        128,
        ge=1,
        description="Embedding rows are padded to a multiple of this, so that every tensor-parallel size fits.",
    )

    @model_validator(mode="after")
    def fill(self) -> "ModelConfig":
        """Writes the derived defaults, so that run.yaml says what was used."""
        if self.ffn_hidden_size is None:
            object.__setattr__(self, "ffn_hidden_size", 4 * self.hidden_size)
        if self.two_stream_layers is None:
            object.__setattr__(self, "two_stream_layers", self.num_layers // 2)
        return self

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // self.pad_vocab_to) * self.pad_vocab_to
