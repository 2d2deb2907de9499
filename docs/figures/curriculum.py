"""Draw `curriculum.svg` beside this file: the schedule of configs/quickstart.yaml, and one order of each scheme."""

from pathlib import Path

import numpy as np

from armd_dist.config import load_run
from armd_dist.orders.curriculum import Stretch, phases
from armd_dist.orders.order import Order
from armd_dist.orders.schemes import (
    any_order,
    block_diffusion,
    in_blocks,
    left_to_right,
    masked_diffusion,
    segments,
    strided,
    tokens,
    window,
)

RUN = load_run(Path(__file__).parents[2] / "configs" / "quickstart.yaml")
STEPS, ORDERS = RUN.training.steps, RUN.orders
LENGTH, SEED = 12, 9

WIDTH, HEIGHT = 900, 676
LEFT, RIGHT, TOP, BOTTOM = 70, 866, 112, 242  # the schedule's plot
CELL = 10  # of a small picture
PITCH = 172  # from one small picture to the next

INK, MUTED, LINE = "#1f2328", "#59636e", "#d1d9e0"
SHADE = {"left_to_right": "#eef1f4", "progressive": "#e3edfa", "strided": "#fdeedd"}
NAME = {"left_to_right": "left to right", "progressive": "progressive", "strided": "strided"}
BLUE, ORANGE = "#4a84cc", "#f0883e"


def generator() -> np.random.Generator:
    return np.random.default_rng(SEED)


PICTURES: list[tuple[str, str, Order]] = [
    ("left to right", "AR", left_to_right(LENGTH)),
    ("segments, ρ = 4", "progressive (the default)", segments(LENGTH, 4, generator())),
    ("tokens, ρ = 4", "progressive", tokens(LENGTH, 4, generator())),
    ("window, ρ = 4", "progressive", window(LENGTH, 4, generator())),
    ("segments, blocks of 2", "progressive, block_sizes", in_blocks(segments(LENGTH, 4, generator()), 2)),
    ("any order", "mixture", any_order(LENGTH, generator())),
    ("masked diffusion, T = 6", "mixture", masked_diffusion(LENGTH, 6, generator())),
    ("block diffusion, L' = 4", "mixture", block_diffusion(LENGTH, 4, 4, generator())),
    ("strided, S = 2", "mixture, strided phase", strided(LENGTH, 2)),
    ("strided, S = 4", "mixture, strided phase", strided(LENGTH, 4)),
]


def text(x: float, y: float, words: str, size: int = 12, color: str = INK, weight: int = 400, at: str = "start") -> str:
    style = f'font-size="{size}" fill="{color}" font-weight="{weight}" text-anchor="{at}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{words}</text>'


def at_step(step: int) -> float:
    return LEFT + (RIGHT - LEFT) * step / STEPS


def at_rho(rho: int) -> float:
    """Doublings are steps of equal height."""
    return BOTTOM - 16 - (BOTTOM - TOP - 46) * np.log2(rho) / np.log2(ORDERS.rho_max)


def shaded(rows: list[Stretch]) -> list[str]:
    out = []
    for phase in SHADE:
        own = [row for row in rows if row.phase == phase]
        x, end = at_step(own[0].first), at_step(own[-1].last + 1)
        out.append(
            f'<rect x="{x:g}" y="{TOP}" width="{end - x:g}" height="{BOTTOM - TOP}" fill="{SHADE[phase]}"/>'
            + text((x + end) / 2, TOP + 17, NAME[phase], 12, INK, 600, "middle")
        )
    return out


def schedule() -> list[str]:
    rows = phases(ORDERS, STEPS)
    out = shaded(rows)
    for rho in sorted({row.rho for row in rows}):
        out.append(f'<path d="M{LEFT} {at_rho(rho):g}H{RIGHT}" stroke="{LINE}" stroke-dasharray="2 4"/>')
        out.append(text(LEFT - 10, at_rho(rho) + 4, f"{rho}", 12, MUTED, 400, "end"))
    for row in rows:
        out.append(text(at_step(row.first), BOTTOM + 18, f"{row.first}", 12, MUTED, 400, "middle"))
    out.append(text(RIGHT, BOTTOM + 18, f"{STEPS}", 12, MUTED, 400, "middle"))
    drawn = [row for row in rows if row.phase != "strided"]
    corners = " ".join(f"L{at_step(r.first):g} {at_rho(r.rho):g}H{at_step(r.last + 1):g}" for r in drawn)
    out.append(f'<path d="M{corners[1:]}" fill="none" stroke="{BLUE}" stroke-width="2.5"/>')
    own = rows[-1]
    middle = (at_step(own.first) + RIGHT) / 2
    streams = ", ".join(map(str, ORDERS.strided_streams))
    out.append(text(middle, (at_rho(2) + at_rho(4)) / 2 + 4, f"S drawn from {streams}", 12, INK, 400, "middle"))
    share = f"{100 * (1 - ORDERS.keep_left_to_right):g} % of the samples in ρ shuffled segments"
    middle = (at_step(ORDERS.left_to_right_steps) + at_step(own.first)) / 2
    out.append(text(middle, BOTTOM - 5, share, 11, INK, 400, "middle"))
    return [
        *out,
        text(LEFT - 10, TOP - 10, "ρ", 13, MUTED, 400, "end"),
        text(RIGHT, BOTTOM + 34, "step", 12, MUTED, 400, "middle"),
    ]


def picture(x: float, y: float, name: str, where: str, order: Order) -> list[str]:
    """Places from left to right, blocks from top to bottom; blocks of several tokens in orange."""
    size = LENGTH * CELL
    out = [text(x, y - 24, name, 12, INK, 600), text(x, y - 9, where, 11, MUTED)]
    out.append(f'<rect x="{x:g}" y="{y:g}" width="{size}" height="{size}" fill="#f6f8fa" stroke="{LINE}"/>')
    for place, block in zip(order.position.tolist(), order.block.tolist(), strict=True):
        color = ORANGE if (order.block == block).sum() > 1 else BLUE
        left, top = x + (place - 1) * CELL + 1, y + (block - 1) * CELL + 1
        out.append(f'<rect x="{left:g}" y="{top:g}" width="{CELL - 2}" height="{CELL - 2}" rx="2" fill="{color}"/>')
    return out


def draw() -> str:
    title = "Which orders training sees, and when"
    settings = f"configs/quickstart.yaml: {STEPS} steps, the first {ORDERS.left_to_right_steps} left to right"
    below = (
        "One order of each scheme: 12 places from left to right, blocks from top to bottom. Orange: revealed together."
    )
    body = [
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="12" fill="#ffffff" stroke="{LINE}"/>',
        text(34, 40, title, 17, INK, 600),
        text(34, 64, settings, 12, MUTED),
        *schedule(),
        text(34, 304, below, 12, MUTED),
    ]
    for number, (name, where, order) in enumerate(PICTURES):
        row, column = divmod(number, 5)
        body += picture(34 + column * PITCH, 356 + row * 178, name, where, order)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">'
    )
    return "\n".join([head, f"<title>{title}</title>", *body, "</svg>", ""])


if __name__ == "__main__":
    Path(__file__).with_name("curriculum.svg").write_text(draw(), encoding="utf-8", newline="\n")
