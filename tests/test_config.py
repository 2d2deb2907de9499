"""Every problem of a configuration is told at once: path, value, rule, remedy."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from armd_dist.config import load_run, to_yaml
from armd_dist.errors import ConfigError
from armd_dist.run import Run

SEE_SCHEMA = "see armd config --schema"


def tree(**sections: dict[str, Any]) -> dict[str, Any]:
    """A sound configuration, with the settings of some sections replaced."""
    base: dict[str, dict[str, Any]] = {
        "run": {"dir": "runs/x"},
        "model": {"vocab_size": 100, "hidden_size": 64, "num_layers": 4, "num_attention_heads": 8},
        "data": {"path": "data/train", "sequence_length": 128},
        "orders": {"rho_max": 16},
        "training": {"steps": 100, "warmup_steps": 10, "global_batch_size": 32, "precision": "fp32"},
    }
    return {name: base.get(name, {}) | sections.get(name, {}) for name in base | sections}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def load(
    path: Path, settings: dict[str, Any], overrides: list[str] | None = None, world_size: int | None = None
) -> Run:
    path.write_text(yaml.safe_dump(settings))
    return load_run(path, overrides, world_size)


def problems(
    path: Path, settings: dict[str, Any], overrides: list[str] | None = None, world_size: int | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(path, settings, overrides, world_size)
    assert str(error.value).splitlines() == [str(problem) for problem in error.value.problems]
    return str(error.value).splitlines()


def test_sound_settings_and_their_defaults(path: Path) -> None:
    run = load(path, tree(), world_size=2)
    assert (run.model.ffn_hidden_size, run.model.two_stream_layers, run.parallel.tensor) == (256, 2, 1)
    assert run.training.betas == (0.9, 0.999)


def test_overrides_win_over_the_file(path: Path) -> None:
    run = load(path, tree(), ["model.num_layers=6", "orders.strided_streams=[1,2]", "checkpoint.every=7"])
    assert (run.model.num_layers, run.model.two_stream_layers, run.checkpoint.every) == (6, 3, 7)
    assert run.orders.strided_streams == [1, 2]


def test_a_mixture_of_an_override_replaces_the_one_of_the_file(path: Path) -> None:
    def mixture(*overrides: str) -> dict[str, float] | None:
        return load(path, tree(orders={"mixture": {"left_to_right": 1}}), list(overrides)).orders.mixture  # type: ignore[return-value]

    assert mixture() == {"left_to_right": 1}
    assert mixture("orders.mixture={any_order: 1}") == mixture("orders.mixture.any_order=1") == {"any_order": 1}
    assert mixture("orders.mixture.any_order=1", "orders.mixture.strided=2") == {"any_order": 1, "strided": 2}
    assert mixture("orders.mixture=null") is None


def test_resolved_settings_read_back_as_the_same(path: Path, tmp_path: Path) -> None:
    run = load(path, tree())
    again = tmp_path / "resolved.yaml"
    again.write_text(to_yaml(run))
    assert load_run(again) == run


def test_quickstart_is_sound() -> None:
    quickstart = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
    assert load_run(quickstart, world_size=1).model.num_layers == 4


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


@pytest.mark.parametrize("override", ["model.num_layers", "=3", "--steps=3"])
def test_malformed_override(path: Path, override: str) -> None:
    found = problems(path, tree(), [override, "model.num_layers=6"])
    assert found == [f"override={override}: is not of the form a.b=c; write model.num_layers=6"]


def test_override_of_an_unknown_setting(path: Path) -> None:
    assert problems(path, tree(), ["model.num_head=3"]) == [
        "model.num_head=3: is not a setting; did you mean model.num_layers?"
    ]


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "no.yaml", tmp_path):
        with pytest.raises(ConfigError) as error:
            load_run(path)
        assert str(error.value) == f"CONFIG={path}: is not a file; give the path of a YAML file, see configs/"


@pytest.mark.parametrize("content", [
    b"model: [1\n", b"model:\n\tnum_layers: 3\n", b"run: {dir: a}\nrun: {dir: b}\n", b"run: {dir: '${nope}'}\n",
    b"run: {dir: caf\xe9}\n", b"- 1\n- 2\n",
])  # fmt: skip
def test_file_that_cannot_be_read(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_run(path)
    assert str(error.value).startswith(f"CONFIG={path}: ")
    assert "\n" not in str(error.value)


def test_override_inside_a_list(path: Path) -> None:
    """OmegaConf cannot merge into a list by index: an error of the user's to mend, not a traceback."""
    with pytest.raises(ConfigError):
        load(path, tree(orders={"strided_streams": [1, 2]}), ["orders.strided_streams.0=3"])


def test_empty_file(path: Path) -> None:
    path.write_text("")
    with pytest.raises(ConfigError) as error:
        load_run(path)
    assert [problem.path for problem in error.value.problems] == ["run", "model", "data", "training"]
