"""Passes whose shapes stay the same from one to the next, as a CUDA graph: one launch in the place of hundreds.

Behind the heads of S streams every pass has S content rows and S query rows, as has every pass of an order that places
equally many tokens at a time. What moves is a number on the device: the first column to fill. Caches have their full
length throughout, and masks by blocks hide what is not filled yet. The pass itself is the ordinary one, runs anywhere
and is tested on CPU; the capture needs CUDA, and has not run on a GPU yet.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
from torch import Tensor

from armd_dist.generation.cache import PreallocatedCache
from armd_dist.generation.passes import Columns
from armd_dist.model.armd import ARMD
from armd_dist.model.layers import PlainLayers
from armd_dist.model.shapes import HeadKeys, HeadRows
from armd_dist.model.visibility import Mask, Visibility, earlier, not_later

LEAST = 32  # passes of one shape that are worth a capture; our guess, until it is measured
WARM_UP = 2  # passes before a capture, in which libraries set themselves up


def can_capture(model: ARMD) -> bool:
    """Whether passes of this network can be one graph: on a GPU, and not across processes."""
    return next(model.parameters()).is_cuda and isinstance(model.layers, PlainLayers)


@dataclass(frozen=True)
class WholeCache:
    """The memory of a cache at its full length; new rows go to the places that `rows` [rows] says, on the device."""

    memory: PreallocatedCache
    rows: Tensor
    length: int

    def extend(self, keys: HeadRows, values: HeadRows) -> tuple[HeadKeys, HeadKeys]:
        self.memory.keys.index_copy_(2, self.rows, keys)
        self.memory.values.index_copy_(2, self.rows, values)
        return self.memory.keys[:, :, : self.length], self.memory.values[:, :, : self.length]


class Steady:
    """Runs the passes of a decode that have the shapes of the pass before.

    of_query: for each of the caches whether it holds query rows, whose first one is column 1.
    """

    def __init__(self, columns: Columns, caches: Sequence[PreallocatedCache], of_query: Sequence[bool]) -> None:
        self.columns, self.caches, self.of_query = columns, caches, of_query
        self.rows = _rows_of_runs(columns.ends)
        self.device = columns.slots.device
        self.ran = 0  # passes of the run of equal ones that goes on

    def step(self, number: int, place: Callable[..., None]) -> bool:
        """Runs pass `number` by `Decoding.place`, if it is one of many of its shape; otherwise False, and nothing."""
        rows = self.rows[number]
        if not rows:
            self.ran = 0
            return False
        if not self.ran:
            self.at = torch.tensor(self.columns.ends[number - 1], device=self.device)
            self.offsets = torch.arange(rows, device=self.device)
        if self.device.type != "cuda":
            self._pass(place)
        elif self.ran < WARM_UP:
            self._beside(place)
        else:
            if self.ran == WARM_UP:
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):
                    self._pass(place)
            self.graph.replay()
        self.ran += 1
        for cache in self.caches:
            cache.filled += rows
        return True

    def _pass(self, place: Callable[..., None]) -> None:
        """Fills the columns from `at` on, and moves `at` behind them."""
        blocks = self.columns.blocks
        query = self.at + self.offsets
        content = query - len(self.offsets)
        visibility = Visibility(
            content=Mask(dense=not_later(blocks[:, content], blocks), sighted=True),
            query=Mask(dense=earlier(blocks[:, query], blocks), sighted=True),
            upper=Mask(dense=not_later(blocks[:, query], blocks[:, 1:]), sighted=True),
        )
        length = blocks.shape[1]
        caches = [
            WholeCache(memory, query - 1, length - 1) if of_query else WholeCache(memory, content, length)
            for memory, of_query in zip(self.caches, self.of_query, strict=True)
        ]
        place(content, query, query, visibility, caches)
        self.at += len(self.offsets)

    def _beside(self, place: Callable[..., None]) -> None:
        """On a stream of its own, as PyTorch wants it before a capture."""
        here, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            self._pass(place)
        here.wait_stream(side)


def _rows_of_runs(ends: list[int]) -> list[int]:
    """For each pass its rows, where it is one of `LEAST` passes on end as large as the one before them; else 0."""
    sizes = [0, *(end - begin for begin, end in pairwise(ends))]
    same = [False, *(one == other for one, other in pairwise(sizes))]
    rows = []
    for steady, run in groupby(range(len(sizes)), key=same.__getitem__):
        numbers = list(run)
        rows += [sizes[number] if steady and len(numbers) >= LEAST else 0 for number in numbers]
    return rows
