"""Settings of the progressive permutation curriculum."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]


class OrdersConfig(BaseModel):
    """When training uses which generation order (ARMD paper, progressive permutation training).

    The schedule is a function of the step alone, so a resumed run and another topology see the same orders.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    left_to_right_steps: int = Field(
        9_000, ge=0, description="Steps at the start that are purely left to right (i_AR)."
    )
    progressive_steps: int = Field(
        40_000, ge=0, description="Steps after that over which rho doubles from 2 to rho_max; then it stays there."
    )
    rho_max: int = Field(32, ge=2, description="Largest number of shuffled segments; a power of two.")
    keep_left_to_right: float = Field(
        0.5, ge=0, le=1, description="Share of samples that stay left to right in the progressive phase (our choice)."
    )
    strided_from: int | None = Field(
        None, ge=0, description="Step from which fine-tuning on strided orders runs (SBP); null: never."
    )
    strided_streams: list[PositiveInt] = Field(
        [1, 2, 4], min_length=1, description="Numbers of streams that strided fine-tuning draws from."
    )
