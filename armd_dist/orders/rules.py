"""Rules that tie the orders' settings to each other, to the length of a sample and to the network."""

from armd_dist.errors import Problem
from armd_dist.orders.config import OrdersConfig

FEWER = {"segments": "use fewer segments", "tokens": "use fewer tokens", "window": "use a narrower window"}


def order_problems(orders: OrdersConfig, length: int, network: str) -> list[Problem]:
    """What contradicts each other, for samples of `length` tokens and model.network `network`."""
    if network == "denoiser":
        return _window_problems(orders, length) + _denoiser_problems(orders)
    problems = _rho_problems(orders, length) if orders.mixture is None else _mixture_problems(orders)
    problems += _length_problems(orders, length) + _window_problems(orders, length)
    return problems + _phase_problems(orders) + _block_problems(orders)


def _rho_problems(orders: OrdersConfig, length: int) -> list[Problem]:
    problems = []
    if orders.rho_growth == "doubling" and orders.rho_max & (orders.rho_max - 1):
        problems.append(
            Problem("orders.rho_max", orders.rho_max, "is not a power of two", "rho doubles: use 2, 4, 8, 16, 32 ...")
        )
    if orders.rho_max > length:
        rule = f"is more than data.sequence_length={length}"
        problems.append(Problem("orders.rho_max", orders.rho_max, rule, FEWER[orders.rho_counts]))
    return problems


def _mixture_problems(orders: OrdersConfig) -> list[Problem]:
    if orders.block_sizes == [1]:
        return []
    rule = "belongs to the progressive phase, which orders.mixture replaces"
    return [Problem("orders.block_sizes", orders.block_sizes, rule, "leave out one of the two")]


def _length_problems(orders: OrdersConfig, length: int) -> list[Problem]:
    problems = []
    if max(orders.block_sizes) > length:
        rule = f"has a block of more than data.sequence_length={length} tokens"
        problems.append(Problem("orders.block_sizes", orders.block_sizes, rule, "use smaller blocks"))
    if max(orders.strided_streams) > length:
        rule = f"has more streams than data.sequence_length={length}"
        problems.append(Problem("orders.strided_streams", orders.strided_streams, rule, "use fewer streams"))
    return problems


def _window_problems(orders: OrdersConfig, length: int) -> list[Problem]:
    if orders.block_length is None or orders.block_length <= length:
        return []
    rule = f"is more than data.sequence_length={length}"
    return [Problem("orders.block_length", orders.block_length, rule, "use a narrower window")]


def _phase_problems(orders: OrdersConfig) -> list[Problem]:
    if orders.strided_from is None or orders.strided_from >= orders.left_to_right_steps:
        return []
    rule = f"comes before the end of orders.left_to_right_steps={orders.left_to_right_steps}"
    return [Problem("orders.strided_from", orders.strided_from, rule, "let strided fine-tuning come last")]


def _block_problems(orders: OrdersConfig) -> list[Problem]:
    """block_length and block_steps where the network is not the denoiser."""
    length, steps = orders.block_length, orders.block_steps
    if "block_diffusion" not in (orders.mixture or {}):
        rule = "is used by nothing: block_diffusion is not in orders.mixture"
        found = {"orders.block_length": length, "orders.block_steps": steps}
        return [
            Problem(path, value, rule, "leave it out, or add block_diffusion to the mixture")
            for path, value in found.items()
            if value is not None
        ]
    if length is None:
        rule = "holds block_diffusion, whose windows have no length"
        return [Problem("orders.mixture", orders.mixture, rule, "set orders.block_length, for example to 16")]
    if steps is not None and steps > length:
        rule = f"is more than orders.block_length={length}"
        return [Problem("orders.block_steps", steps, rule, f"use 1 to {length} steps")]
    return []


def _denoiser_problems(orders: OrdersConfig) -> list[Problem]:
    found = {
        "orders.mixture": orders.mixture,
        "orders.strided_from": orders.strided_from,
        "orders.block_steps": orders.block_steps,
        "orders.block_sizes": None if orders.block_sizes == [1] else orders.block_sizes,
    }
    rule = "is not for model.network=denoiser, which trains on masked tokens"
    remedy = "leave it out (orders.block_length gives the windows of BD3-LM), or use model.network=armd"
    return [Problem(path, value, rule, remedy) for path, value in found.items() if value is not None]
