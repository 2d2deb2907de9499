"""Every problem of a configuration is told at once: path, value, rule, remedy."""

from pathlib import Path
from typing import Any

import pytest
from settings import load, problems, tree

SEE_SCHEMA = "see armd config --schema"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def test_tensor_parallelism_that_does_not_divide(path: Path) -> None:
    assert problems(path, tree(parallel={"tensor": 3})) == [
        "parallel.tensor=3: does not divide model.num_attention_heads=8; use 1, 2, 4 or 8",
        "parallel.tensor=3: does not divide model.ffn_hidden_size=256; use 1, 2, 4, 8, 16, 32, 64, 128 or 256",
        "parallel.tensor=3: does not divide model.padded_vocab_size=128; use 1, 2, 4, 8, 16, 32, 64 or 128",
    ]


@pytest.mark.parametrize(("section", "settings", "message"), [
    ("model", {"num_attention_heads": 5},
     "model.num_attention_heads=5: does not divide model.hidden_size=64; use 1, 2, 4, 8, 16, 32 or 64"),
    ("model", {"num_attention_heads": 64},
     "model.num_attention_heads=64: gives heads of odd width 1, which rotary positions cannot pair; "
     "make hidden_size / heads even"),
    ("model", {"two_stream_layers": 5}, "model.two_stream_layers=5: is more than model.num_layers=4; use 0 to 4"),
    ("data", {"sequence_length": 2000},
     "data.sequence_length=2000: is longer than model.max_sequence_length=1024; shorten it or raise the model's"),
    ("orders", {"rho_max": 12}, "orders.rho_max=12: is not a power of two; rho doubles: use 2, 4, 8, 16, 32 ..."),
    ("orders", {"rho_max": 256}, "orders.rho_max=256: is more than data.sequence_length=128; use fewer segments"),
    ("orders", {"strided_streams": [1, 129]},
     "orders.strided_streams=[1, 129]: has more streams than data.sequence_length=128; use fewer streams"),
    ("orders", {"left_to_right_steps": 50, "strided_from": 49},
     "orders.strided_from=49: comes before the end of orders.left_to_right_steps=50; "
     "let strided fine-tuning come last"),
    ("training", {"warmup_steps": 101},
     "training.warmup_steps=101: is more than training.steps=100; warm up for fewer steps"),
    ("training", {"min_learning_rate": 1.0},
     "training.min_learning_rate=1.0: is above training.learning_rate=0.0003; lower it"),
    ("training", {"stop_at": 101},
     "training.stop_at=101: is more than training.steps=100; stop earlier, or leave it out"),
    ("checkpoint", {"every": 1000, "keep_every": 2500},
     "checkpoint.keep_every=2500: is not a multiple of checkpoint.every=1000, so that most of the steps it names "
     "save nothing; use 3000"),
    ("checkpoint", {"weights_from": "runs/a", "resume": "runs/b"},
     "checkpoint.weights_from=runs/a: begins a new run, and checkpoint.resume=runs/b continues one; "
     "use checkpoint.weights_from=null, or checkpoint.resume=auto"),
    ("training", {"micro_batch_size": 5},
     "training.global_batch_size=32: is not a multiple of training.micro_batch_size=5; use a multiple of it"),
    ("training", {"precision": "bf16"},
     "parallel.zero_stage=0: DeepSpeed keeps fp32 master weights for bf16 only from ZeRO stage 1 on; "
     "use parallel.zero_stage=1, or training.precision=fp32"),
])  # fmt: skip
def test_settings_that_contradict_each_other(path: Path, section: str, settings: dict[str, Any], message: str) -> None:
    assert problems(path, tree(**{section: settings})) == [message]


@pytest.mark.parametrize(("tensor", "world_size", "message"), [
    (4, 6, "parallel.tensor=4: does not divide the 6 processes of this job; "
           "start a multiple of 4 processes, or use 1, 2, 3 or 6"),
    (1, 3, "training.global_batch_size=32: is not a multiple of micro_batch_size x data parallel = 24; "
           "use a multiple of 24, or a smaller micro-batch"),
    (2, 16, "training.global_batch_size=32: is not a multiple of micro_batch_size x data parallel = 64; "
            "use a multiple of 64, or a smaller micro-batch"),
])  # fmt: skip
def test_world_that_does_not_fit(path: Path, tensor: int, world_size: int, message: str) -> None:
    assert problems(path, tree(parallel={"tensor": tensor}), world_size=world_size) == [message]


@pytest.mark.parametrize(("tensor", "world_size"), [(1, 1), (1, 4), (2, 8), (8, 8)])
def test_world_that_fits(path: Path, tensor: int, world_size: int) -> None:
    assert load(path, tree(parallel={"tensor": tensor}), world_size=world_size).parallel.tensor == tensor


def test_unknown_settings(path: Path) -> None:
    settings = tree(model={"num_layer": 3}, training={"warmup_step": 3}) | {"modle": {"a": 1}, "qzx": 7}
    assert sorted(problems(path, settings)) == [
        "model.num_layer=3: is not a setting; did you mean model.num_layers?",
        "modle={'a': 1}: is not a setting; did you mean model?",
        "qzx=7: is not a setting; remove it (armd config --schema lists every setting)",
        "training.warmup_step=3: is not a setting; did you mean training.warmup_steps?",
    ]


def test_missing_settings(path: Path) -> None:
    settings = tree()
    del settings["run"], settings["training"]["steps"]
    assert problems(path, settings) == [
        "run=: is missing; set run in the YAML, or on the command line as run=VALUE",
        "training.steps=: is missing; set training.steps in the YAML, or on the command line as training.steps=VALUE",
    ]


@pytest.mark.parametrize(("section", "settings", "message"), [
    ("model", {"num_layers": "four"},
     "model.num_layers=four: input should be a valid integer, unable to parse string as an integer; " + SEE_SCHEMA),
    ("model", {"num_layers": 0}, "model.num_layers=0: input should be greater than or equal to 1; " + SEE_SCHEMA),
    ("model", {"query_context": "all"},
     "model.query_context=all: input should be 'neighbours', 'linear', 'both' or 'none'; " + SEE_SCHEMA),
    ("training", {"precision": "fp8"}, "training.precision=fp8: input should be 'fp32' or 'bf16'; " + SEE_SCHEMA),
    ("training", {"betas": [0.9, 1.0]}, "training.betas.1=1.0: input should be less than 1; " + SEE_SCHEMA),
    ("orders", {"keep_left_to_right": 1.5},
     "orders.keep_left_to_right=1.5: input should be less than or equal to 1; " + SEE_SCHEMA),
    ("orders", {"strided_streams": [0]},
     "orders.strided_streams.0=0: input should be greater than or equal to 1; " + SEE_SCHEMA),
    ("run", {"dir": 3}, "run.dir=3: input should be a valid string; " + SEE_SCHEMA),
])  # fmt: skip
def test_values_of_the_wrong_kind(path: Path, section: str, settings: dict[str, Any], message: str) -> None:
    assert problems(path, tree(**{section: settings})) == [message]


def test_section_that_is_no_section(path: Path) -> None:
    found = problems(path, tree() | {"parallel": 3})
    assert found == [f"parallel=3: input should be a valid dictionary or instance of ParallelConfig; {SEE_SCHEMA}"]


def test_everything_wrong_is_told_at_once(path: Path) -> None:
    """Wrong kinds, unknown names, contradictions and the world together."""
    settings = tree(
        model={"two_stream_layers": 9, "num_layer": 4},
        training={"seed": "abc", "warmup_steps": 101},
        orders={"rho_max": 12, "strided_streams": [0]},
        parallel={"tensor": 8},
    )
    assert sorted(problems(path, settings, ["checkpoint.keep=0"], world_size=4)) == [
        "checkpoint.keep=0: input should be greater than or equal to 1; see armd config --schema",
        "model.num_layer=4: is not a setting; did you mean model.num_layers?",
        "model.two_stream_layers=9: is more than model.num_layers=4; use 0 to 4",
        "orders.rho_max=12: is not a power of two; rho doubles: use 2, 4, 8, 16, 32 ...",
        "orders.strided_streams.0=0: input should be greater than or equal to 1; see armd config --schema",
        "parallel.tensor=8: does not divide the 4 processes of this job; "
        "start a multiple of 8 processes, or use 1, 2 or 4",
        "training.seed=abc: input should be a valid integer, unable to parse string as an integer; "
        "see armd config --schema",
        "training.warmup_steps=101: is more than training.steps=100; warm up for fewer steps",
    ]


def test_type_error_and_contradiction_together(path: Path) -> None:
    assert problems(path, tree(training={"seed": "abc"}, parallel={"tensor": 3}))[:2] == [
        "training.seed=abc: input should be a valid integer, unable to parse string as an integer; " + SEE_SCHEMA,
        "parallel.tensor=3: does not divide model.num_attention_heads=8; use 1, 2, 4 or 8",
    ]


@pytest.mark.parametrize(
    ("section", "name", "value", "others"),
    [
        ("training", "micro_batch_size", "x", {"training": {"global_batch_size": 4}}),
        ("training", "precision", "fp8", {}),
        ("model", "max_sequence_length", "x", {"data": {"sequence_length": 2048}}),
        ("training", "learning_rate", "x", {"training": {"min_learning_rate": 1.0}}),
    ],
)
def test_default_of_a_broken_setting_is_no_reason_to_blame_another(
    path: Path, section: str, name: str, value: str, others: dict[str, dict[str, Any]]
) -> None:
    """Left out to check the rest, it takes its default: a value that the user never wrote."""
    sections = others | {section: others.get(section, {}) | {name: value}}
    assert [message.split("=")[0] for message in problems(path, tree(**sections))] == [f"{section}.{name}"]


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("12-10", "names no steps, which count from 1; give the first and the last one: 10-12"),
        ("0-3", "names no steps, which count from 1; give the first and the last one: 10-12"),
        ("ten", "names no steps, which count from 1; give the first and the last one: 10-12"),
        ("99-101", "goes on behind step 100, the last one; end at 100 or before"),
        ("1-30", "are 30 steps, whose trace nothing could open; trace 20 at most"),
    ],
)
def test_steps_that_cannot_be_profiled(path: Path, asked: str, wanted: str) -> None:
    assert problems(path, tree(), [f"logging.profile={asked}"]) == [f"logging.profile={asked}: {wanted}"]


def test_steps_to_profile_are_one_or_a_range(path: Path) -> None:
    for asked, steps in (("7", range(7, 8)), ("10-12", range(10, 13))):
        assert load(path, tree(), [f"logging.profile={asked}"]).logging.profiled_steps == steps
