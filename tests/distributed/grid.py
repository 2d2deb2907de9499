"""The layouts that test_grid.py compares with one process, as settings for layouts.py."""

import itertools
from typing import Any

Legs = list[dict[str, Any]]

TENSOR = {"parallel.tensor": 2}
SEQUENCE = {"parallel.tensor": 2, "parallel.sequence": True}
AGAIN = {"parallel.recompute": "full"}
SELECTIVE = {"parallel.recompute": "selective"}
COMPILED = {"training.compile": True}
OFFLOAD = {"parallel.offload_optimizer": True}
BF16 = {"training.precision": "bf16"}
PIPELINE = {"parallel.pipeline": 2}
DEEP = {"model.num_layers": 5, "model.two_stream_layers": 3}
VIRTUAL = PIPELINE | DEEP | {"parallel.virtual_pipeline": 2}
DROPOUT = {"model.hidden_dropout": 0.2}
SWITCHES = {
    "model.num_key_value_heads": 2,
    "model.activation": "swiglu",
    "model.normalization": "layernorm",
    "model.bias": True,
    "model.query_place": "previous",
    "model.tie_embeddings": False,
    "model.position_embedding": "rotary",
    "training.z_loss": 1e-3,
}
# Sizes that two processes cannot halve: parts of a parameter are then padded.
ODD = {"model.hidden_size": 15, "model.num_attention_heads": 3, "model.position_embedding": "learned"}
LINEAR = {"model.query_context": "both"}
# Matrices of a quarter of the rate, and a stage of a long pipeline without any table.
MUP = SWITCHES | {"model.mup_base_width": 8, "model.num_layers": 5}
DENOISER = {"model.network": "denoiser", "orders.block_length": 4}
LEARNED = {
    "model.network": "denoiser",
    "model.learned_order": True,
    "training.forward_order_rate": 0.5,
    "training.reverse_order_rate": 2.0,
    "training.z_loss": 1e-3,
}
PACKED = {"data.path": "documents"}
APART = PACKED | {"data.attention": "within_document"}
REFERENCES: dict[str, dict[str, Any]] = {
    "plain": {},
    "switches": SWITCHES,
    "odd": ODD,
    "dropout": DROPOUT,
    "linear": LINEAR,
    "denoiser": DENOISER,
    "learned": LEARNED,
    "deep": DEEP,
    "mup": MUP,
    "packed": PACKED,
    "apart": APART,
    "denoiser_apart": DENOISER | APART,
}


def zero(stage: int) -> dict[str, Any]:
    return {"parallel.zero_stage": stage}


# Every stage hands its checkpoint to every other.
HANDS_TO_ALL = [0, 1, 0, 2, 0, 3, 1, 2, 1, 3, 2, 3, 0]

# name: (processes, reference, the layouts of one run, each continuing the checkpoint of the one before)
QUICK: dict[str, tuple[int, str, Legs]] = {
    "tensor_2_sequence": (2, "plain", [SEQUENCE]),
    "tensor_2_sequence_switches": (2, "switches", [SEQUENCE | SWITCHES]),
    "tensor_2_sequence_recompute": (2, "plain", [SEQUENCE | AGAIN]),
    "data_2_zero_2_recompute": (2, "plain", [zero(2) | AGAIN]),
    "data_2_zero_3": (2, "plain", [zero(3)]),
    "data_2_zero_3_recompute_dropout": (2, "dropout", [zero(3) | AGAIN | DROPOUT]),
    "data_2_zero_3_selective": (2, "switches", [zero(3) | SELECTIVE | SWITCHES]),
    "tensor_2_sequence_within_document": (2, "apart", [SEQUENCE | APART]),
    "tensor_2_learned": (2, "learned", [TENSOR | LEARNED]),
    "data_2_zero_1_learned": (2, "learned", [zero(1) | LEARNED]),
    "learned_and_resumed": (1, "learned", [LEARNED, LEARNED]),
    "pipeline_2_within_document": (2, "apart", [PIPELINE | APART]),
    "pipeline_2": (2, "plain", [PIPELINE]),
    "pipeline_2_virtual_2": (2, "deep", [VIRTUAL]),
    "pipeline_2_recompute_dropout_zero_1": (2, "dropout", [PIPELINE | AGAIN | DROPOUT | zero(1)]),
    "pipeline_2_recompute_by_rank": (2, "plain", [PIPELINE | {"parallel.recompute": ["full", "selective"]}]),
    "checkpoints_of_pipelines": (2, "deep", [DEEP | zero(1), PIPELINE | DEEP, TENSOR | DEEP, VIRTUAL | zero(1)]),
    "checkpoints_under_mup": (2, "mup", [SEQUENCE | MUP, zero(3) | MUP, PIPELINE | MUP | zero(1), zero(2) | MUP]),
    "checkpoints_of_every_stage": (2, "odd", [zero(stage) | ODD for stage in HANDS_TO_ALL]),
    "checkpoints_of_every_kind": (2, "plain", [SEQUENCE, zero(3), TENSOR | AGAIN, zero(2) | OFFLOAD, SEQUENCE]),
}
GRID: dict[str, tuple[int, str, Legs]] = {
    "tensor_2": (2, "plain", [TENSOR]),
    "tensor_2_recompute": (2, "plain", [TENSOR | AGAIN]),
    "tensor_2_selective": (2, "plain", [TENSOR | SELECTIVE]),
    "tensor_2_denoiser_selective": (2, "denoiser", [TENSOR | DENOISER | SELECTIVE]),
    **{f"data_2_zero_{stage}_waiting": (2, "plain", [zero(stage) | {"parallel.overlap": False}]) for stage in (2, 3)},
    "data_2_zero_2_selective": (2, "plain", [zero(2) | SELECTIVE]),
    "tensor_2_sequence_compiled": (2, "switches", [SEQUENCE | SWITCHES | COMPILED | AGAIN]),
    "pipeline_2_compiled": (2, "dropout", [PIPELINE | DROPOUT | COMPILED]),
    "tensor_2_linear": (2, "linear", [TENSOR | LINEAR]),
    "data_2_zero_3_recompute_within_document": (2, "apart", [zero(3) | AGAIN | APART]),
    "pipeline_2_denoiser_within_document": (2, "denoiser_apart", [PIPELINE | DENOISER | APART]),
    "tensor_2_pipeline_2_sequence_within_document": (4, "apart", [PIPELINE | SEQUENCE | APART]),
    "tensor_2_denoiser_recompute": (2, "denoiser", [TENSOR | DENOISER | AGAIN]),
    "data_2_zero_3_denoiser": (2, "denoiser", [zero(3) | DENOISER]),
    "checkpoints_of_learned": (2, "learned", [TENSOR | LEARNED, zero(3) | LEARNED | AGAIN, zero(1) | LEARNED]),
    **{f"data_2_zero_{stage}_learned": (2, "learned", [zero(stage) | LEARNED]) for stage in (2, 3)},
    "tensor_2_learned_recompute": (2, "learned", [TENSOR | LEARNED | AGAIN]),
    "tensor_2_data_2_zero_3_learned_selective": (4, "learned", [TENSOR | zero(3) | LEARNED | SELECTIVE]),
    "data_2_zero_3_linear": (2, "linear", [zero(3) | LINEAR | AGAIN]),
    "data_2_zero_3_switches": (2, "switches", [zero(3) | SWITCHES]),
    **{
        f"data_2_zero_{stage}{name}": (2, "plain", [zero(stage) | more])
        for stage, (name, more) in itertools.product((0, 1, 2, 3), (("", {}), ("_recompute", AGAIN)))
        if f"data_2_zero_{stage}{name}" not in QUICK
    },
    **{f"data_2_zero_{stage}_offload": (2, "plain", [zero(stage) | OFFLOAD]) for stage in (1, 2, 3)},
    "pipeline_2_switches": (2, "switches", [PIPELINE | SWITCHES]),
    "pipeline_2_linear": (2, "linear", [PIPELINE | LINEAR]),
    "pipeline_2_denoiser": (2, "denoiser", [PIPELINE | DENOISER | zero(2)]),
    **{f"pipeline_2_zero_{stage}_offload": (2, "plain", [PIPELINE | zero(stage) | OFFLOAD]) for stage in (1, 2)},
    "pipeline_4": (4, "deep", [DEEP | {"parallel.pipeline": 4}]),
    "pipeline_4_mup": (4, "mup", [MUP | zero(1) | {"parallel.pipeline": 4}]),
    "data_2_zero_1_offload_mup": (2, "mup", [MUP | zero(1) | OFFLOAD]),
    "tensor_2_pipeline_2_sequence": (4, "plain", [PIPELINE | SEQUENCE]),
    "tensor_2_pipeline_2_virtual_2_sequence": (4, "deep", [VIRTUAL | SEQUENCE | AGAIN]),
    **{f"pipeline_2_data_2_zero_{stage}": (4, "plain", [PIPELINE | zero(stage)]) for stage in (0, 1, 2)},
    "tensor_4": (4, "plain", [{"parallel.tensor": 4}]),
    "tensor_4_sequence": (4, "plain", [{"parallel.tensor": 4, "parallel.sequence": True}]),
    **{
        f"tensor_2_data_2_zero_{stage}{name}": (4, "plain", [TENSOR | zero(stage) | more])
        for stage, (name, more) in itertools.product(
            (0, 1, 2, 3), (("", {}), ("_sequence", SEQUENCE), ("_sequence_recompute", SEQUENCE | AGAIN))
        )
    },
    "checkpoints_of_every_shape": (
        4,
        "plain",
        [
            TENSOR | zero(1),
            {"parallel.tensor": 4, "parallel.sequence": True},
            PIPELINE | TENSOR,
            zero(3),
            PIPELINE | zero(1),
            SEQUENCE | zero(3),
            PIPELINE | zero(2),
            zero(2),
        ],
    ),
}
QUICK_IN_BF16: dict[str, tuple[int, str, Legs]] = {
    "data_2_zero_2_bf16": (2, "plain", [zero(2) | BF16]),
    "checkpoints_bf16": (
        2,
        "plain",
        [zero(1) | OFFLOAD | BF16, zero(3) | BF16, zero(2) | AGAIN | BF16, zero(1) | BF16],
    ),
}
IN_BF16: dict[str, tuple[int, str, Legs]] = {
    **{f"data_2_zero_{stage}_bf16": (2, "plain", [zero(stage) | BF16]) for stage in (1, 3)},
    **{f"tensor_2_sequence_zero_{stage}_bf16": (2, "plain", [SEQUENCE | zero(stage) | BF16]) for stage in (1, 2, 3)},
    **{f"pipeline_2_data_2_zero_{stage}_bf16": (4, "plain", [PIPELINE | zero(stage) | BF16]) for stage in (1, 2)},
}
SEQUENCE_DROPOUT: dict[str, tuple[int, str, Legs]] = {
    "sequence_dropout": (2, "dropout", [SEQUENCE | DROPOUT]),
    "sequence_dropout_recompute": (2, "dropout", [SEQUENCE | DROPOUT | AGAIN]),
    "sequence_dropout_selective": (2, "dropout", [SEQUENCE | DROPOUT | SELECTIVE]),
}
QUICK_FIGURES: dict[str, tuple[int, str, Legs]] = {
    **SEQUENCE_DROPOUT,
    "kept_by_tensor_2": (2, "plain", [TENSOR]),
    "tensor_2_dropout": (2, "dropout", [TENSOR | DROPOUT]),
    "kept_by_one": (2, "plain", [{}]),
    "kept_by_recompute": (2, "plain", [AGAIN]),
    "kept_by_selective": (2, "plain", [SELECTIVE]),
    "packed": (1, "packed", [PACKED]),
}
