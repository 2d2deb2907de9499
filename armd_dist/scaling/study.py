"""Settings of a scaling study: many runs made from one, which differ in size, tokens, objective and seed."""

from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from yaml import YAMLError

from armd_dist.errors import ConfigError, Problem
from armd_dist.scaling.hardware import Kind

STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
EXAMPLE = "see configs/scaling/miniature.yaml and docs/scaling.md"
Positive = Annotated[float, Field(gt=0)]


def _once(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError(f"{values} names a value twice; give each once")
    return values


Objective = Literal["armd", "ar", "mdm", "bd3lm", "lomdm"]


class LadderConfig(BaseModel):
    """How a network follows from its depth, the one dial."""

    model_config = STRICT

    width_per_layer: int = Field(64, ge=1, description="hidden_size = depth x this.")
    head_width: int = Field(64, ge=1, description="Heads = hidden_size / this, which must divide.")
    learning_rate_power: float | None = Field(
        None,
        ge=0,
        description="The base's learning rate is that of its own width; at another it falls with width to this power. "
        "null: 1, which is what GPT-3's table of rates comes to. With model.mup_base_width in the base or settings "
        "all sizes have the base's rate, and this is to be left out.",
    )


class BudgetConfig(BaseModel):
    """What each size is trained on: one of the three."""

    model_config = STRICT

    tokens: Annotated[list[Positive], Field(min_length=1), AfterValidator(_once)] | None = Field(
        None, description="Tokens, the same for every size."
    )
    tokens_per_parameter: Annotated[list[Positive], Field(min_length=1), AfterValidator(_once)] | None = Field(
        None, description="Multiples of a size's parameters; 20 is Chinchilla's."
    )
    flops: Annotated[list[Positive], Field(min_length=1), AfterValidator(_once)] | None = Field(
        None,
        description="isoFLOP slices: FLOPs of a whole run, both streams counted, so that larger networks see less.",
    )

    @model_validator(mode="after")
    def _one(self) -> "BudgetConfig":
        if sum(values is not None for values in (self.tokens, self.tokens_per_parameter, self.flops)) != 1:
            raise ValueError("wants exactly one of tokens, tokens_per_parameter and flops; keep one")
        return self

    @property
    def kind(self) -> Literal["tokens", "tokens_per_parameter", "flops"]:
        return "tokens" if self.tokens else "flops" if self.flops else "tokens_per_parameter"

    @property
    def values(self) -> list[float]:
        return self.tokens or self.flops or self.tokens_per_parameter or []


class HardwareConfig(BaseModel):
    """What one run gets. For the plan's hours, and for a layout that fits."""

    model_config = STRICT

    gpu: Kind | None = Field(
        "h100", description="Kind of GPU; null: processes on CPU, where nothing is checked to fit."
    )
    count: int = Field(1, ge=1, description="Processes of a run, each with a GPU.")
    mfu: float = Field(0.4, gt=0, le=1, description="Share of the GPU's peak FLOP/s: an assumption.")
    flops_per_second: float | None = Field(
        None, gt=0, description="Of one process, measured: takes the place of the assumption. Needed where gpu is null."
    )

    @model_validator(mode="after")
    def _speed_is_known(self) -> "HardwareConfig":
        if self.gpu is None and self.flops_per_second is None:
            raise ValueError(
                "without gpu wants flops_per_second; measure it with a short run: tokens/s x FLOPs a token"
            )
        return self


class MeasureConfig(BaseModel):
    """The evaluation of every run, `armd eval` with these options."""

    model_config = STRICT

    data: str = Field(..., min_length=1, description="A built dataset that no run trains on.")
    streams: Annotated[list[Annotated[int, Field(ge=1)]], AfterValidator(_once)] = Field(
        [1, 2, 4], description="S of the strided perplexities of ARMD; 1, left to right, is what the law is fitted on."
    )
    windows: int | None = Field(None, ge=1, description="Windows that are scored; null: all.")
    maskings: int | None = Field(
        None, ge=1, description="Maskings of each window for a denoiser's bound; null: default."
    )

    @model_validator(mode="after")
    def _left_to_right(self) -> "MeasureConfig":
        if 1 not in self.streams:
            raise ValueError(f"streams={self.streams} lacks 1, whose loss is fitted; add it")
        return self


class FitConfig(BaseModel):
    model_config = STRICT

    huber_delta: float = Field(
        0.01,
        gt=0,
        description="In log loss: points that lie farther from the law count by their distance alone. Hoffmann et al. "
        "use 0.001, beside hundreds of runs; with dozens that leaves too few of them a say (our choice).",
    )
    bootstrap: int = Field(1000, ge=100, description="Draws behind the 95 % intervals.")


class HeldOutRun(BaseModel):
    """A run that no law is fitted on: what is predicted of it stands beside what it came to."""

    model_config = STRICT

    depth: int = Field(..., ge=1)
    tokens: float = Field(..., gt=0)


class Study(BaseModel):
    """A whole study. Every run is the base, scaled: its schedule and curriculum keep their shares of the steps."""

    model_config = STRICT

    dir: str = Field(..., min_length=1, description="Folder that owns everything: configs, runs, logs, fit and report.")
    base: str = Field(..., min_length=1, description="YAML of the run that all are made from.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Changes to the base for all runs, {a.b: c}.")
    prepare: list[str] = Field(
        default_factory=list,
        description="armd commands that make the data, run before the first run; each is rerunnable.",
    )
    depths: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1), AfterValidator(_once)] = Field(
        ..., description="The sizes: layers, from which width, heads and learning rate follow."
    )
    ladder: LadderConfig = LadderConfig.model_validate({})
    budgets: BudgetConfig
    objectives: Annotated[list[Objective], Field(min_length=1), AfterValidator(_once)]
    two_stream: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1), AfterValidator(_once)] = (
        Field(
            [0.5], description="L2s of ARMD (two_stream_layers), as shares of the depth; each is a series of its own."
        )
    )
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_once)] = [0]
    held_out: list[HeldOutRun] = Field(default_factory=list, description="Larger runs that the law shall predict.")
    hardware: HardwareConfig = HardwareConfig.model_validate({})
    evaluation: MeasureConfig
    fit: FitConfig = FitConfig.model_validate({})
    workers: int = Field(
        1,
        ge=1,
        description="Runs at a time on this machine (without --cluster); 1 on GPUs, which all take from the first on.",
    )
    attempts: int = Field(2, ge=1, description="Times that a run is tried before it is reported as failed.")
    diverged_factor: float = Field(
        1.5,
        gt=1,
        description="A run is stopped as diverged once the mean loss of 20 steps lies above this times the lowest such "
        "mean before it, or half of them are not finite.",
    )


def load_study(file: Path) -> Study:
    """Raises ConfigError with every problem of single settings."""
    if not file.is_file():
        raise ConfigError([Problem("STUDY", file, "is not a file", f"give the path of a YAML file; {EXAMPLE}")])
    try:
        tree = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        rule = "cannot be read: " + " ".join(str(error).split())
        raise ConfigError([Problem("STUDY", file, rule, "mend the YAML there")]) from error
    try:
        return Study.model_validate(tree)
    except ValidationError as error:
        raise ConfigError([_problem(detail) for detail in error.errors()]) from error


def _problem(detail: Any) -> Problem:
    path = ".".join(map(str, detail["loc"])) or "STUDY"
    if detail["type"] == "missing":
        return Problem(path, "", "is missing", EXAMPLE)
    if detail["type"] == "extra_forbidden":
        return Problem(path, detail["input"], "is not a setting of a study", EXAMPLE)
    message = detail["msg"].removeprefix("Value error, ")
    rule, _, remedy = (message[:1].lower() + message[1:]).partition("; ")
    return Problem(path, detail["input"], rule, remedy or EXAMPLE)
