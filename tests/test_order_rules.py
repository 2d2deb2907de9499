"""Settings of orders that contradict each other, the samples' length or the network."""

from typing import Any

import pytest
from settings import tree

from armd_dist.config import check_tree
from armd_dist.errors import ConfigError

MASKED = (
    "is not for model.network=denoiser, which trains on masked tokens; "
    "leave it out (orders.block_length gives the windows of BD3-LM), or use model.network=armd"
)
UNUSED = (
    "is used by nothing: block_diffusion is not in orders.mixture; leave it out, or add block_diffusion to the mixture"
)
WINDOWS = {"mixture": {"block_diffusion": 1.0}, "block_length": 16}


def problems(orders: dict[str, Any], network: str = "armd", length: int = 128) -> list[str]:
    settings = tree(orders=orders, model={"network": network}, data={"sequence_length": length})
    try:
        check_tree(settings)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize("orders", [
    {"rho_growth": "linear", "rho_max": 12},
    {"rho_max": 12, "mixture": {"any_order": 1}},  # nothing reads rho then
    {"rho_max": 256, "mixture": {"any_order": 1}},
    {"rho_max": 128, "rho_counts": "tokens"},
    {"block_sizes": [1, 128]},
    WINDOWS,
    WINDOWS | {"block_steps": 16},
    WINDOWS | {"strided_from": 20_000, "block_length": 128},
    {"mixture": {"left_to_right": 1, "any_order": 0.5, "masked_diffusion": 2, "strided": 1}},
])  # fmt: skip
def test_sound_orders(orders: dict[str, Any]) -> None:
    assert problems(orders) == []


@pytest.mark.parametrize("orders", [{}, {"rho_max": 12}, {"rho_max": 256}, {"block_length": 128}])
def test_sound_orders_of_a_denoiser(orders: dict[str, Any]) -> None:
    assert problems(orders, "denoiser") == []


@pytest.mark.parametrize(("orders", "message"), [
    ({"rho_max": 256, "rho_counts": "tokens"},
     "orders.rho_max=256: is more than data.sequence_length=128; use fewer tokens"),
    ({"rho_max": 129, "rho_growth": "linear", "rho_counts": "window"},
     "orders.rho_max=129: is more than data.sequence_length=128; use a narrower window"),
    ({"block_sizes": [1, 129]},
     "orders.block_sizes=[1, 129]: has a block of more than data.sequence_length=128 tokens; use smaller blocks"),
    ({"block_sizes": [2], "mixture": {"any_order": 1}},
     "orders.block_sizes=[2]: belongs to the progressive phase, which orders.mixture replaces; "
     "leave out one of the two"),
    (WINDOWS | {"block_length": 129},
     "orders.block_length=129: is more than data.sequence_length=128; use a narrower window"),
    (WINDOWS | {"block_length": None},
     "orders.mixture={'block_diffusion': 1.0}: holds block_diffusion, whose windows have no length; "
     "set orders.block_length, for example to 16"),
    (WINDOWS | {"block_steps": 17}, "orders.block_steps=17: is more than orders.block_length=16; use 1 to 16 steps"),
    ({"block_length": 8}, f"orders.block_length=8: {UNUSED}"),
    ({"block_steps": 8}, f"orders.block_steps=8: {UNUSED}"),
    ({"block_length": 8, "mixture": {"any_order": 1}}, f"orders.block_length=8: {UNUSED}"),
    ({"mixture": {}},
     "orders.mixture={}: dictionary should have at least 1 item after validation, not 0; see armd config --schema"),
    ({"mixture": {"any_order": 0}},
     "orders.mixture.any_order=0: input should be greater than 0; see armd config --schema"),
])  # fmt: skip
def test_orders_that_contradict_each_other(orders: dict[str, Any], message: str) -> None:
    assert problems(orders) == [message]


@pytest.mark.parametrize(("orders", "message"), [
    ({"mixture": {"any_order": 1}}, f"orders.mixture={{'any_order': 1.0}}: {MASKED}"),
    ({"strided_from": 9_000}, f"orders.strided_from=9000: {MASKED}"),
    ({"block_steps": 4}, f"orders.block_steps=4: {MASKED}"),
    ({"block_sizes": [2]}, f"orders.block_sizes=[2]: {MASKED}"),
    ({"block_length": 129}, "orders.block_length=129: is more than data.sequence_length=128; use a narrower window"),
])  # fmt: skip
def test_a_denoiser_trains_on_masked_tokens(orders: dict[str, Any], message: str) -> None:
    assert problems(orders, "denoiser") == [message]


def test_all_at_once() -> None:
    found = problems({"rho_max": 192, "block_length": 256, "block_steps": 300, "strided_streams": [200]})
    assert [message.split("=")[0].removeprefix("orders.") for message in found] == [
        "rho_max", "rho_max", "strided_streams", "block_length", "block_length", "block_steps",
    ]  # fmt: skip
