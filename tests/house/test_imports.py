"""Imports go one way, and each engine is named in one room."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Lower rooms first; a room may import the rooms before it.
ROOMS = (
    ("armd_dist/errors.py", "data_pipeline"),
    ("armd_dist/orders",),
    ("armd_dist/model",),
    ("armd_dist/objectives",),
    ("armd_dist/run.py",),
    ("armd_dist/config_rules.py",),
    ("armd_dist/config.py",),
    ("armd_dist/checkpoint",),
    ("armd_dist/parallel",),
    ("armd_dist/generation",),
    ("armd_dist/export",),
    ("armd_dist/training", "armd_dist/evaluation"),
    ("armd_dist/quickstart", "armd_dist/scaling"),
    ("launchers",),
    ("armd_dist/cli",),
    ("armd_dist/__main__.py",),
)
# A room's config.py stands below everything but other configs, so that the Run can be made of them.
CONFIGS = "config.py"
OWNERS = {
    "megatron": "armd_dist/parallel",
    "deepspeed": "armd_dist/parallel",
    "submitit": "launchers",
    "webdataset": "data_pipeline",
    "sentencepiece": ("data_pipeline", "armd_dist/export"),
    "wandb": "armd_dist/training",
    "transformers": "armd_dist/export",
}
TORCH_FREE = [
    "armd_dist/model/cost.py",
    "armd_dist/scaling",
    "armd_dist/orders",
    "armd_dist/config.py",
    "armd_dist/config_rules.py",
    "armd_dist/run.py",
    "armd_dist/errors.py",
    "armd_dist/cli",
    "armd_dist/checkpoint/folder.py",
    "armd_dist/checkpoint/retention.py",
]


def sources() -> list[Path]:
    packages = ("armd_dist", "launchers", "data_pipeline")
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    guarded = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    found: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(name: str) -> int | None:
    """The level of a dotted module or a path below the root."""
    path = name.replace(".", "/").removesuffix("/py")
    for level, rooms in enumerate(ROOMS):
        if any(path == room.removesuffix(".py") or path.startswith(room + "/") for room in rooms):
            return level
    return None


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    relative = str(path.relative_to(ROOT))
    mine = room_of(relative)
    if path.name == "__init__.py" and mine is None:
        return
    assert mine is not None, f"{relative} is in no room: add it to ROOMS"
    for name in imports(path):
        theirs = room_of(name)
        if theirs is None or path.parent == ROOT / Path(*name.split(".")[:-1]):
            continue
        if name.split(".")[-1] == "config" or ".config." in name:
            continue
        same_room = relative.startswith(
            tuple(room + "/" for room in ROOMS[theirs] if name.replace(".", "/").startswith(room))
        )
        assert theirs < mine or same_room, f"{relative} imports {name}, which stands above or beside it"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_each_engine_is_named_in_one_room(path: Path) -> None:
    relative = str(path.relative_to(ROOT))
    for name in imports(path):
        owner = OWNERS.get(name.split(".")[0])
        assert owner is None or relative.startswith(owner), f"{relative} imports {name}; only {owner} may"


LIGHT = [
    path for path in sources() if path.name == CONFIGS or str(path.relative_to(ROOT)).startswith(tuple(TORCH_FREE))
]


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: str(path.relative_to(ROOT)))
def test_light_files_import_no_torch(path: Path) -> None:
    heavy = {"torch", "transformers", "megatron", "deepspeed", "webdataset", "sentencepiece", "submitit", "wandb"}
    found = {name.split(".")[0] for name in imports(path, top_level_only=True)} & heavy
    assert not found


def test_help_does_not_import_torch() -> None:
    code = "import sys; from armd_dist.cli.main import app; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": ""})
    help_text = subprocess.run(
        [sys.executable, "-m", "armd_dist", "--help"], check=True, capture_output=True, text=True
    )
    assert "Usage" in help_text.stdout


def test_files_and_functions_stay_small() -> None:
    for path in [*sources(), *sorted((ROOT / "benchmarks").glob("*.py"))]:
        lines = path.read_text().count("\n")
        assert lines <= 250, f"{path.relative_to(ROOT)} has {lines} lines; 250 are the most"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 50, f"{path.relative_to(ROOT)}:{node.name} has {length} lines; 50 are the most"
