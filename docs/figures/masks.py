"""Draw `masks.svg` beside this file: who may look at whom in the content and in the query stream."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from armd_dist.model.layout import BOS_BLOCK
from armd_dist.model.visibility import earlier, not_later
from armd_dist.orders.order import Order
from armd_dist.orders.schemes import left_to_right, strided

LENGTH, STREAMS = 8, 2
ORDER = strided(LENGTH, STREAMS)
WIDTH, HEIGHT = 900, 484
CELL, GAP = 25, 7  # a gap sets BOS and the streams apart
SMALL = 14
TOP = 180  # of the large grids' first row
LEFT, MIDDLE, RIGHT = 78, 396, 706  # left edges of the three panels' grids

M_C, M_SC = (f'M<tspan font-size="70%" dy="3">{name}</tspan>' for name in ("c", "sc"))
INK, MUTED, LINE = "#1f2328", "#59636e", "#d1d9e0"
FILL = {"bos": "#c3cad2", "earlier": "#8cb4e8", "own": "#f0883e", "hidden": "#f6f8fa", "own hidden": "#ffffff"}
SUBTITLE = (
    "Row n is the token that looks, column m what it looks at: its place, and in bold its block b, which says when it "
    "is revealed."
)
MEANING = {
    "bos": "BOS, visible to every row",
    "earlier": "earlier block",
    "own": "own block, visible",
    "own hidden": "own block, hidden",
    "hidden": "later block, hidden",
}

Rule = Callable[[Tensor, Tensor], Tensor]


def text(
    x: float, y: float, words: str, size: int = 12, color: str = INK, weight: int = 400, at: str = "middle"
) -> str:
    style = f'font-size="{size}" fill="{color}" font-weight="{weight}" text-anchor="{at}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{words}</text>'


def square(x: float, y: float, size: float, name: str) -> str:
    own = name.startswith("own")
    edge = 'stroke="#bc4c00" stroke-width="1.5"' if own else f'stroke="{LINE}"'
    dash = ' stroke-dasharray="3 2"' if name == "own hidden" else ""
    inner = size - 2
    return (
        f'<rect x="{x + 1:g}" y="{y + 1:g}" width="{inner:g}" height="{inner:g}" rx="{2 if size < 20 else 3}" '
        f'fill="{FILL[name]}" {edge}{dash}/>'
    )


def kind(own: bool, seen: bool) -> str:
    if own:
        return "own" if seen else "own hidden"
    return "earlier" if seen else "hidden"


def kinds(order: Order, rule: Rule) -> list[list[str]]:
    """For every token in storage order, what BOS and every token in storage order are to it."""
    blocks = torch.from_numpy(order.block)[None]
    keys = torch.nn.functional.pad(blocks, (1, 0), value=BOS_BLOCK)
    rows = []
    for block, sees in zip(order.block.tolist(), rule(blocks, keys)[0].tolist(), strict=True):
        cells = [kind(key == block, seen) for key, seen in zip(keys[0].tolist(), sees, strict=True)]
        rows.append(["bos" if sees[0] else "hidden", *cells[1:]])
    return rows


def by_place(order: Order, grid: list[list[str]]) -> list[list[str]]:
    """The grid with rows and columns in the order of the text."""
    reveal = [int(index) for index in order.position.argsort()]
    return [[grid[row][0], *(grid[row][1 + column] for column in reveal)] for row in reveal]


def offset(place: int) -> int:
    """Distance of a place's row or column from that of place 0 in a large grid."""
    gaps = (place > 0) + (place > LENGTH // STREAMS)
    return place * CELL + gaps * GAP


def headers(x: int, blocks: list[int]) -> list[str]:
    """Place and block of every column above the grid, and of every row to its left."""
    half = CELL / 2
    out = [text(x + half, TOP - 22, "BOS", 10, MUTED)]
    for place, block in enumerate(blocks, start=1):
        middle = x + offset(place) + half
        out += [text(middle, TOP - 22, f"{place}"), text(middle, TOP - 7, f"{block}", 12, MUTED, 600)]
        baseline = TOP + offset(place) - offset(1) + half + 4
        out += [text(x - 30, baseline, f"{place}"), text(x - 10, baseline, f"{block}", 12, MUTED, 600)]
    out += [text(x - 30, TOP - 7, "n", 12, MUTED), text(x - 10, TOP - 7, "b", 12, MUTED, 600)]
    for stream in range(STREAMS):
        start, width = offset(1 + stream * LENGTH // STREAMS), LENGTH // STREAMS * CELL
        out.append(text(x + start + width / 2, TOP - 43, f"stream {stream + 1}", 11, MUTED))
        out.append(f'<path d="M{x + start + 2} {TOP - 37}h{width - 4}" stroke="{LINE}" stroke-width="2"/>')
    return out


def large(x: int, rule: Rule, title: str, condition: str, caption: str) -> list[str]:
    grid = by_place(ORDER, kinds(ORDER, rule))
    blocks = ORDER.block[ORDER.position.argsort()].tolist()
    out = [text(x - 44, 104, title, 14, INK, 600, "start"), text(x + offset(9), 104, condition, 12, MUTED, 400, "end")]
    out += headers(x, blocks)
    for row, cells in enumerate(grid, start=1):
        y = TOP + offset(row) - offset(1)
        out += [square(x + offset(column), y, CELL, name) for column, name in enumerate(cells)]
    return [*out, text(x - 44, 412, caption, 12, INK, 400, "start")]


def small(y: int, rule: Rule, title: str) -> list[str]:
    out = [text(RIGHT, y - 8, title, 12, MUTED, 400, "start")]
    for row, cells in enumerate(kinds(left_to_right(LENGTH), rule)):
        out += [square(RIGHT + column * SMALL, y + row * SMALL, SMALL, name) for column, name in enumerate(cells)]
    return out


def legend() -> list[str]:
    out, x = [], 34
    for name, words in MEANING.items():
        out += [square(x, 438, 18, name), text(x + 25, 451, words, 12, MUTED, 400, "start")]
        x += 62 + 6 * len(words)
    return out


def draw() -> str:
    title = f"The two masks: {LENGTH} tokens revealed in {ORDER.block[-1]} blocks by S = {STREAMS} strided streams"
    body = [
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="12" fill="#ffffff" stroke="{LINE}"/>',
        text(34, 40, title, 17, INK, 600, "start"),
        text(34, 64, SUBTITLE, 12, MUTED, 400, "start"),
        *large(
            LEFT, not_later, f"Content stream, {M_C}", "b(m) ≤ b(n)", "A token sees its own block and earlier ones."
        ),
        *large(MIDDLE, earlier, f"Query stream, {M_SC}", "b(m) &lt; b(n)", "A prediction sees earlier blocks only."),
        text(RIGHT, 104, "Plain causal kernel", 14, INK, 600, "start"),
        *small(138, not_later, f'{M_C}<tspan dy="-3">, left to right</tspan>'),
        *small(280, earlier, f'{M_SC}<tspan dy="-3">, left to right</tspan>'),
        text(RIGHT, 412, "One token a block: triangles.", 12, INK, 400, "start"),
        *legend(),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">'
    )
    return "\n".join([head, f"<title>{title}</title>", *body, "</svg>", ""])


if __name__ == "__main__":
    Path(__file__).with_name("masks.svg").write_text(draw(), encoding="utf-8", newline="\n")
