"""Safetensors files, planned before a byte of a tensor is read, and then written from its front to its end.

The format: 8 bytes for the length of a JSON header, the header (names, types, shapes, places), the values. With the
header known first, no writer needs more than the values that it writes next.
"""

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch

from armd_dist.errors import ConfigError, Problem

Shape = tuple[int, ...]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class TensorFile:
    """One file: tensors of one type by name, in the sequence in which their values lie in it."""

    name: str
    shapes: Mapping[str, Shape]
    dtype: torch.dtype

    @property
    def data_bytes(self) -> int:
        return sum(map(self._bytes, self.shapes.values()))

    def header(self) -> bytes:
        """All that stands before the values."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
        at = 0
        for name, shape in self.shapes.items():
            end = at + self._bytes(shape)
            entries[name] = {"dtype": _CODES[self.dtype], "shape": list(shape), "data_offsets": [at, end]}
            at = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # values lie at a multiple of 8
        return struct.pack("<Q", len(text)) + text

    def _bytes(self, shape: Shape) -> int:
        return prod(shape) * self.dtype.itemsize


def plan_files(shapes: Mapping[str, Shape], dtype: torch.dtype, largest: int) -> list[TensorFile]:
    """Files of at most `largest` bytes of values, in the tensors' sequence; a tensor that is larger has one alone."""
    groups: list[dict[str, Shape]] = []
    room = 0
    for name, shape in shapes.items():
        size = prod(shape) * dtype.itemsize
        if not groups or size > room:
            groups.append({})
            room = largest
        groups[-1][name] = shape
        room -= size
    if len(groups) == 1:
        return [TensorFile("model.safetensors", groups[0], dtype)]
    names = [f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    return [TensorFile(name, group, dtype) for name, group in zip(names, groups, strict=True)]


def index_of(files: Sequence[TensorFile]) -> str | None:
    """The content of INDEX, which says in what file each tensor is; None where there is one file only."""
    if len(files) == 1:
        return None
    total = sum(file.data_bytes for file in files)
    places = {name: file.name for file in files for name in file.shapes}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2) + "\n"


def parse_size(text: str) -> int:
    """Bytes of "5GB" and the like, in powers of 1,000. Raises ConfigError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)?", text.strip().upper())
    size = int(float(found[1]) * _UNITS[found[2] or ""]) if found and found[2] != "B" else 0
    if size < 1:
        rule = "is no size of a file"
        raise ConfigError([Problem("--max-shard-size", text, rule, "write 5GB, 500MB, or a number of bytes")])
    return size
