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
    ("armd_dist/errors.py", "armd_dist/tables.py", "data_pipeline"),
    ("armd_dist/heartbeat.py",),
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
    ("armd_dist/training", "armd_dist/evaluation", "armd_dist/serving"),
    ("armd_dist/quickstart", "armd_dist/scaling"),
    ("launchers",),
    ("armd_dist/cli",),
    ("armd_dist/__main__.py",),
)
# These stand below everything but each other, so that the Run can be made of them.
SETTINGS = tuple(f"armd_dist.{room}.config" for room in ("orders", "model", "parallel", "training"))
CONFIGS = "config.py"
OWNERS = {
    "megatron": "armd_dist/parallel",
    "deepspeed": "armd_dist/parallel",
    "submitit": "launchers",
    "webdataset": "data_pipeline",
    "sentencepiece": ("data_pipeline", "armd_dist/export"),
    "wandb": "armd_dist/training",
    "transformers": ("armd_dist/export", "armd_dist/evaluation/judge.py"),
    "fastapi": "armd_dist/serving",
    "uvicorn": "armd_dist/serving",
    "prometheus_client": "armd_dist/serving",
}
HEAVY = {"torch", "transformers", "megatron", "deepspeed", "webdataset", "sentencepiece", "submitit", "wandb"}
TORCH_FREE = [
    "armd_dist/model/cost.py",
    "armd_dist/scaling",
    "armd_dist/orders",
    "armd_dist/config.py",
    "armd_dist/config_rules.py",
    "armd_dist/run.py",
    "armd_dist/errors.py",
    "armd_dist/heartbeat.py",
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
        if f"{path}/".startswith(tuple(f"{room.removesuffix('.py')}/" for room in rooms)):
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
        assert may_import(relative, name), f"{relative} imports {name}, which stands above or beside it"


def may_import(relative: str, name: str) -> bool:
    """Whether the file at `relative`, which is in a room, may import the dotted `name`."""
    mine, theirs = room_of(relative), room_of(name)
    assert mine is not None
    if theirs is None or (ROOT / relative).parent == ROOT / Path(*name.split(".")[:-1]):
        return True
    if name in SETTINGS or name.rpartition(".")[0] in SETTINGS:
        return True
    same_room = tuple(room + "/" for room in ROOMS[theirs] if name.replace(".", "/").startswith(room))
    return theirs < mine or relative.startswith(same_room)


@pytest.mark.parametrize(
    ("importer", "name", "allowed"),
    [
        ("armd_dist/model/armd.py", "armd_dist.orders.config", True),
        ("armd_dist/model/armd.py", "armd_dist.training.config.DataConfig", True),
        ("armd_dist/model/armd.py", "armd_dist.config.load_run", False),
        ("armd_dist/model/armd.py", "armd_dist.cli.config", False),
        ("armd_dist/model/armd.py", "launchers.config.ClusterConfig", False),
        ("armd_dist/orders/order.py", "armd_dist.config", False),
        ("armd_dist/orders/order.py", "armd_dist.config_rules.cross_problems", False),
        ("armd_dist/checkpoint/tensors.py", "armd_dist.config.load_run", True),
    ],
)
def test_settings_of_rooms_are_for_all_and_the_reading_of_them_is_not(importer: str, name: str, allowed: bool) -> None:
    assert may_import(importer, name) == allowed


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
    assert not {name.split(".")[0] for name in imports(path, top_level_only=True)} & HEAVY


VERB = "from armd_dist.cli.main import app; app({}, standalone_mode=False)"
# What a new process does, what it must not have imported by then, and what it says.
QUICK = {
    "command line": ("import armd_dist.cli.main", HEAVY | {"numpy", "omegaconf", "pydantic"}, ""),
    "help": (VERB.format(["--help"]), HEAVY | {"numpy"}, "Usage"),
    "cost": ("import armd_dist.model.cost", HEAVY, ""),
    "config": (VERB.format(["config", "configs/quickstart.yaml"]), HEAVY, "max_sequence_length: 128"),
    "plan": (VERB.format(["plan", "configs/armd_7b.yaml", "--gpus", "64"]), HEAVY | {"numpy"}, "It fits."),
}


@pytest.mark.parametrize("name", QUICK)
def test_quick_answers_import_nothing_heavy(name: str) -> None:
    code, heavy, said = QUICK[name]
    check = f"import sys; found = {heavy} & set(sys.modules); assert not found, found"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_files_and_functions_stay_small() -> None:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    for path in [*sources(), *sorted((ROOT / "benchmarks").glob("*.py")), *tests]:
        lines = path.read_text().count("\n")
        assert lines <= 250, f"{path.relative_to(ROOT)} has {lines} lines; 250 are the most"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 50, f"{path.relative_to(ROOT)}:{node.name} has {length} lines; 50 are the most"
