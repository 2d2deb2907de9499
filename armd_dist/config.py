"""A Run from YAML and a.b=c overrides, checked as a whole.

Every problem is reported at once, each with its path, value, rule and remedy.
"""

import difflib
import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import YAMLError

from armd_dist.config_rules import cross_problems
from armd_dist.errors import ConfigError, Problem
from armd_dist.run import Run

MIXTURE = "orders.mixture"


def load_run(path: Path, overrides: list[str] | None = None, world_size: int | None = None) -> Run:
    """Reads a YAML file, applies `a.b=c` overrides, checks everything.

    `world_size` (processes) adds the checks that need it. Raises ConfigError with every problem found.
    """
    return check_tree(read_tree(path, overrides or []), world_size)


def read_tree(path: Path, overrides: list[str]) -> dict[str, Any]:
    """The raw settings: the file with the overrides merged in."""
    if not path.is_file():
        raise ConfigError([Problem("CONFIG", path, "is not a file", "give the path of a YAML file, see configs/")])
    malformed = [text for text in overrides if "=" not in text or text.startswith(("=", "-"))]
    if malformed:
        raise ConfigError(
            [Problem("override", text, "is not of the form a.b=c", "write model.num_layers=6") for text in malformed]
        )
    try:
        written, changes = OmegaConf.load(path), OmegaConf.from_dotlist(overrides)
        if OmegaConf.select(changes, MIXTURE) is not None and OmegaConf.select(written, MIXTURE) is not None:
            OmegaConf.update(written, MIXTURE, None, force_add=True)  # another mixture, not more of the same
        tree = OmegaConf.merge(written, changes)
        container = OmegaConf.to_container(tree, resolve=True)
    except (OmegaConfBaseException, YAMLError, TypeError, UnicodeDecodeError) as error:
        first_lines = " ".join(str(error).split())
        raise ConfigError([Problem("CONFIG", path, f"cannot be read: {first_lines}", "mend the YAML there")]) from error
    if not isinstance(container, dict):
        raise ConfigError([Problem("CONFIG", path, "holds no mapping of settings", "see configs/ for examples")])
    return container  # type: ignore[return-value]


def check_tree(tree: dict[str, Any], world_size: int | None = None) -> Run:
    """Turns raw settings into a Run, or raises ConfigError with every problem of fields and of their combination."""
    try:
        run, problems = Run.model_validate(tree), []
    except ValidationError as error:
        problems = [_field_problem(detail) for detail in error.errors()]
        run = _without_bad_fields(tree, error)
    if run is not None:
        broken = {part for problem in problems for part in (problem.path, re.split(r"\.\d+", problem.path)[0])}
        problems += [
            found for found in cross_problems(run, world_size) if not any(f"{path}=" in str(found) for path in broken)
        ]
    if problems or run is None:
        raise ConfigError(problems)
    return run


def _field_problem(detail: Any) -> Problem:
    """A problem of one field, from what pydantic says of it."""
    path = ".".join(str(part) for part in detail["loc"] if part != "[key]")  # pydantic's mark of a mapping's key
    if detail["type"] == "extra_forbidden":
        close = difflib.get_close_matches(path, known_paths(Run), n=1, cutoff=0.6)
        remedy = f"did you mean {close[0]}?" if close else "remove it (armd config --schema lists every setting)"
        return Problem(path, detail["input"], "is not a setting", remedy)
    if detail["type"] == "missing":
        return Problem(path, "", "is missing", f"set {path} in the YAML, or on the command line as {path}=VALUE")
    return Problem(path, detail["input"], detail["msg"][:1].lower() + detail["msg"][1:], "see armd config --schema")


def known_paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted path of a config class."""
    paths = []
    for name, field in model.model_fields.items():
        paths.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            paths += known_paths(field.annotation, f"{prefix}{name}.")
    return paths


def _without_bad_fields(tree: dict[str, Any], error: ValidationError) -> Run | None:
    """The Run that the sound settings make, so that problems of their combination are told in the same breath.

    None where something required is missing or broken: then there is nothing to combine.
    """
    pruned = OmegaConf.to_container(OmegaConf.create(tree))
    for detail in error.errors():
        parent: Any = pruned
        *parents, bad = (part for part in detail["loc"] if part != "[key]")
        for part in parents:
            if not isinstance(parent.get(part), dict):
                bad = part  # a bad element takes its whole list with it
                break
            parent = parent[part]
        parent.pop(bad, None)
    try:
        return Run.model_validate(pruned)
    except ValidationError:
        return None


def to_yaml(run: Run) -> str:
    """The resolved tree as YAML, every default written out."""
    return OmegaConf.to_yaml(OmegaConf.create(run.model_dump(mode="json")))
