"""What a job asks of a cluster: read from a YAML file and from flags, checked before anything is submitted."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from yaml import YAMLError

from armd_dist.config import load_run
from armd_dist.errors import ConfigError, Problem
from armd_dist.run import Run
from launchers.walltime import minutes_of

EXAMPLE = "see configs/cluster/example.yaml"


def _checked_time(text: str) -> str:
    minutes_of(text)
    return text


def _checked_names(environment: dict[str, str]) -> dict[str, str]:
    for name in environment:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} is not a name of an environment variable")
    return environment


class ClusterConfig(BaseModel):
    """The resources of one job and what its nodes need before Python starts."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    nodes: int = Field(1, ge=1, description="Machines. 2-4: what can be had first of 2 to 4; the global batch stays.")
    min_nodes: int | None = Field(None, ge=1, description="The 2 of nodes: 2-4, whose 4 then stands in nodes.")
    gpus_per_node: int = Field(..., ge=0, description="GPUs of each node, one process for each; 0: a CPU job.")
    tasks_per_node: int | None = Field(None, ge=1, description="Processes of each node of a CPU job.")
    gpu_memory_gb: float | None = Field(
        None,
        gt=0,
        description="Memory of each GPU in GB, as data sheets count it (80 for an H100): a run that cannot fit is "
        "refused before it waits in the queue. Left out: nobody checks.",
    )
    cpus_per_task: int | None = Field(None, ge=1, description="CPU cores of each process.")
    mem_gb: float | None = Field(None, gt=0, description="Memory of each node.")
    time: Annotated[str, Field(strict=True), AfterValidator(_checked_time)] = Field(
        "1-00:00:00", description="Longest run time, D-HH:MM:SS or HH:MM:SS."
    )
    then_time: Annotated[str, Field(strict=True), AfterValidator(_checked_time)] = Field(
        "4:00:00",
        description="Longest run time of each command of --then or --at-checkpoints; at most that of the run.",
    )
    signal_seconds: int = Field(
        120,
        ge=1,
        description="The job is told so long before its time is up, and then has to end a step and save a checkpoint; "
        "Slurm may tell it up to a minute earlier.",
    )
    max_crashes: int = Field(
        10,
        ge=0,
        description="A job that crashes is started again so many times at most, and never after two crashes in a row "
        "with no update saved in between. Preemptions, time limits and failed nodes have no limit.",
    )
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = Field(None, description="Features that the nodes must have.")
    python: str | None = Field(
        None,
        description="Command that starts Python on the nodes: `python` of a venv that setup activates, "
        "`apptainer exec --nv image.sif python`; left out: the Python that submits.",
    )
    setup: list[str] = Field(default_factory=list, description="Shell lines run before the processes.")
    environment: Annotated[dict[str, str], AfterValidator(_checked_names)] = Field(
        default_factory=dict, description="Variables set for every process, after the setup lines."
    )
    sbatch: dict[str, str] = Field(default_factory=dict, description="Other options of sbatch, by their long names.")
    srun: list[str] = Field(default_factory=list, description="Other options of srun, as --container-image=image.sqsh.")

    @model_validator(mode="before")
    @classmethod
    def _range_of_nodes(cls, tree: dict[str, Any]) -> dict[str, Any]:
        found = re.fullmatch(r"(\d+)-(\d+)", str(tree.get("nodes")))
        return {**tree, "min_nodes": found[1], "nodes": found[2]} if found else tree

    @model_validator(mode="after")
    def _parts_agree(self) -> "ClusterConfig":
        """A sentence each: the rule, and the remedy behind a semicolon."""
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise ValueError(
                f"tasks_per_node={self.tasks_per_node} with gpus_per_node={self.gpus_per_node}; "
                "leave tasks_per_node out: there is one process for each GPU"
            )
        if self.signal_seconds >= 60 * minutes_of(self.time):
            raise ValueError(
                f"signal_seconds={self.signal_seconds} leaves no time to train in time={self.time}; "
                "ask for more --time, or lower --signal-seconds to what a step and a checkpoint take"
            )
        if self.min_nodes is not None and self.min_nodes > self.nodes:
            raise ValueError(f"from {self.min_nodes} to {self.nodes} nodes; give the smaller number first, as in 2-4")
        return self

    @property
    def processes_per_node(self) -> int:
        return self.gpus_per_node or self.tasks_per_node or 1

    @property
    def world_size(self) -> int:
        """On the most nodes that are asked for."""
        return self.nodes * self.processes_per_node

    @property
    def world_sizes(self) -> list[int]:
        """Every number of processes that the job may start with."""
        fewest = self.min_nodes or self.nodes
        return [nodes * self.processes_per_node for nodes in range(fewest, self.nodes + 1)]


def load_cluster(file: Path | None, flags: dict[str, Any]) -> ClusterConfig:
    """The file's settings with the flags in their place. Raises ConfigError with every problem found."""
    tree = {**(_read(file) if file is not None else {}), **flags}
    try:
        return ClusterConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError([_problem(detail) for detail in error.errors()]) from error


def load_for_sizes(path: Path, overrides: list[str], sizes: Sequence[int | None]) -> Run:
    """The run, checked for every number of processes. Raises ConfigError with the problems of all of them."""
    runs, problems = [], []
    for size in sizes:
        try:
            runs.append(load_run(path, overrides, world_size=size))
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return runs[0]


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError([Problem("--cluster", file, "is not a file", EXAMPLE)])
    try:
        tree = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        rule = "cannot be read: " + " ".join(str(error).split())
        raise ConfigError([Problem("--cluster", file, rule, "mend the YAML there")]) from error
    if not isinstance(tree, dict):
        raise ConfigError([Problem("--cluster", file, "holds no mapping of settings", EXAMPLE)])
    return tree  # type: ignore[return-value]


def _problem(detail: Any) -> Problem:
    """A problem of one setting, from what pydantic says of it."""
    message = detail["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not detail["loc"]:
        rule, _, remedy = message.partition("; ")
        return Problem("cluster", "", rule, remedy)
    name, path = str(detail["loc"][0]), ".".join(["cluster", *map(str, detail["loc"])])
    flag = "--" + name.replace("_", "-")
    if detail["type"] == "missing":
        return Problem(path, "", "is missing", f"give {flag} N, or {name}: N in the --cluster file (0 for a CPU job)")
    if detail["type"] == "extra_forbidden":
        return Problem(path, detail["input"], "is not a setting", f"use one of {', '.join(ClusterConfig.model_fields)}")
    if name == "time" and detail["type"] == "string_type":
        # YAML reads an unquoted 12:00:00 as a number of seconds, Slurm a bare number as minutes.
        return Problem(path, detail["input"], "is a number, not a time", "quote it: '12:00:00'")
    in_file_only = name in ("environment", "sbatch", "srun", "python")
    return Problem(path, detail["input"], message, EXAMPLE if in_file_only else f"mend {flag}, or {name} in the file")
