"""Settings of the orders that training uses."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
Scheme = Literal["left_to_right", "any_order", "masked_diffusion", "block_diffusion", "strided"]


class OrdersConfig(BaseModel):
    """When training uses which generation order (ARMD paper, progressive permutation training).

    Three phases: left to right; then progressive (or, with `mixture`, a constant mixture of schemes); then strided
    fine-tuning. The schedule is a function of the step alone: a resumed run and another topology see the same orders.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    left_to_right_steps: int = Field(
        9_000, ge=0, description="Steps at the start that are purely left to right (i_AR)."
    )
    progressive_steps: int = Field(
        40_000, ge=0, description="Steps after that over which rho grows from 2 to rho_max; then it stays there."
    )
    rho_counts: Literal["segments", "tokens", "window"] = Field(
        "segments",
        description="What rho counts (our choice): contiguous segments in shuffled order; single tokens at random "
        "places that exchange their turns; or the width of the windows inside which tokens are shuffled.",
    )
    rho_growth: Literal["doubling", "linear"] = Field(
        "doubling",
        description="How rho grows: 2, 4, 8 ... or 2, 3, 4 ..., each for an equal part of progressive_steps.",
    )
    rho_max: int = Field(32, ge=2, description="Largest rho; a power of two where rho doubles.")
    keep_left_to_right: float = Field(
        0.5, ge=0, le=1, description="Share of samples that stay left to right in the progressive phase (our choice)."
    )
    block_sizes: list[PositiveInt] = Field(
        [1],
        min_length=1,
        description="Tokens revealed together in the progressive phase (our choice): each sample that does not stay "
        "left to right draws one of these sizes.",
    )
    mixture: Annotated[dict[Scheme, Annotated[float, Field(gt=0)]], Field(min_length=1)] | None = Field(
        None,
        description="In place of the progressive phase: each sample draws one of these schemes by weight, for example "
        "{any_order: 1} or {left_to_right: 1, masked_diffusion: 3}.",
    )
    diffusion_steps: int = Field(1000, ge=1, description="T, the steps of the scheme masked_diffusion.")
    block_length: int | None = Field(
        None,
        ge=1,
        description="L', the window of the scheme block_diffusion, and of the denoiser (BD3-LM), where null is the "
        "whole sequence.",
    )
    block_steps: int | None = Field(
        None, ge=1, description="k, the steps inside a window of block_diffusion; null: block_length."
    )
    strided_from: int | None = Field(
        None, ge=0, description="Step from which fine-tuning on strided orders runs (SBP); null: never."
    )
    strided_streams: list[PositiveInt] = Field(
        [1, 2, 4], min_length=1, description="Numbers of streams that strided orders draw from."
    )
