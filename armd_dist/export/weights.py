"""A checkpoint's weights as safetensors, a few rows at a time: no process ever holds the model, or all of a tensor."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata

from armd_dist.checkpoint.pieces import Piece
from armd_dist.checkpoint.reading import read_metadata, read_pieces, refuse_another_model
from armd_dist.checkpoint.tensors import VOCABULARY
from armd_dist.errors import ExportError
from armd_dist.export.files import INDEX, Shape, TensorFile, index_of
from armd_dist.model.config import ModelConfig
from armd_dist.model.layers import PlainLayers
from armd_dist.model.network import make_network

BLOCK_BYTES = 1 << 24  # of values in fp32 that are in memory at a time, or a row where that is more
PREFIX = "armd."  # of a tensor's name in an export: where the network stands in the class for transformers


def exported_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Shape of every tensor of an export, by its name in the network, the vocabulary's padding cut off.

    A tied head is the token embedding's tensor, and has none of its own.
    """
    with torch.device("meta"):
        network = make_network(config.model_copy(update={"pad_vocab_to": 1}), PlainLayers())
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


@dataclass(frozen=True)
class Source:
    """Where weights are read: a checkpoint's, or (`part`) their average."""

    checkpoint: Path
    part: str
    config: ModelConfig
    metadata: Metadata

    @classmethod
    def of(cls, checkpoint: Path, ema: bool, config: ModelConfig) -> "Source":
        """Raises CheckpointError where a tensor is missing or has another shape."""
        source = cls(checkpoint, "ema" if ema else "weight", config, read_metadata(checkpoint))
        wanted = {
            source.key(name): Piece.of_whole(torch.empty(source.written_shape(name, shape), device="meta"))
            for name, shape in exported_shapes(config).items()
        }
        refuse_another_model(checkpoint, source.metadata, wanted)
        return source

    def key(self, name: str) -> str:
        return f"{self.part}/{name}"

    def written_shape(self, name: str, shape: Shape) -> Shape:
        """With the vocabulary's padding, which checkpoints have."""
        return (self.config.padded_vocab_size, *shape[1:]) if name in VOCABULARY else shape

    def blocks(self, name: str, shape: Shape) -> Iterator[Tensor]:
        """The tensor's first shape[0] rows in fp32, some at a time, in memory that the next ones take over."""
        row = torch.Size(shape[1:]).numel()
        most = min(shape[0], max(1, BLOCK_BYTES // (4 * row)))
        memory = torch.empty(most * row)
        whole = self.written_shape(name, shape)
        for first in range(0, shape[0], most):
            part = (min(most, shape[0] - first), *shape[1:])
            values = memory[: part[0] * row]
            piece = Piece(whole, (first, *[0] * (len(shape) - 1)), part, 0, values)
            read_pieces(self.checkpoint, {self.key(name): piece}, metadata=self.metadata)
            yield values


def write_weights(
    source: Source, files: Sequence[TensorFile], folder: Path, advance: Callable[[int], object] = lambda _: None
) -> None:
    """Writes the files, and their index where they are several; each is on the disk itself when the next one begins.

    files: of tensors named as in an export. advance: told how many bytes were written. Raises CheckpointError,
    ExportError where the files' type cannot hold a value, and OSError.
    """
    for file in files:
        with open(folder / file.name, "wb") as stream:
            stream.write(file.header())
            for name, shape in file.shapes.items():
                for block in source.blocks(name.removeprefix(PREFIX), shape):
                    values = _cast(block, file.dtype, name)
                    stream.write(values.view(torch.uint8).numpy().data)
                    advance(values.nbytes)
            stream.flush()
            os.fsync(stream.fileno())
    if (content := index_of(files)) is not None:
        (folder / INDEX).write_text(content)


def _cast(values: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    made = values.to(dtype)
    if not made.isfinite().all():
        if not values.isfinite().all():
            raise ExportError(f"{name}: has values that are not finite; export a checkpoint from before they were lost")
        largest = values.abs().max().item()
        raise ExportError(f"--dtype {str(dtype)[6:]}: cannot hold {largest:.3g} in {name}; use --dtype bfloat16")
    return made
