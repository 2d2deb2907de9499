"""The network that `armd generate` writes with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from armd_dist.cli.place import own_world_size

if TYPE_CHECKING:
    from armd_dist.generation.generate import Generator
    from armd_dist.generation.requests import Ordering
    from data_pipeline.tokenizer import Tokenizer


@dataclass(frozen=True)
class Source:
    """Options of `armd generate` that name it. order_from: what says where ARMD writes, a network that learned that."""

    model: Path
    order_from: Path | None
    ema: bool
    device: str | None
    tensor: int


@contextmanager
def opened(source: Source, ordering: "Ordering") -> "Iterator[tuple[Generator, Tokenizer]]":
    """The network, or this process' part of it. Raises GenerationError for options that do not fit together."""
    from armd_dist.errors import GenerationError
    from armd_dist.export.open import device_of, open_across, open_generator, settle

    tensor, learned = source.tensor, ordering.name == "learned"
    if (processes := own_world_size()) != tensor:
        start = f"with torchrun --nproc-per-node {tensor} -m armd_dist generate" if tensor > 1 else "without torchrun"
        raise GenerationError(f"--tensor-parallel {tensor}: this job has {processes} processes; start it {start}")
    if source.order_from is not None:
        yield _guided(source, source.order_from, ordering)
        return
    if tensor == 1:
        network, tokenizer = open_generator(source.model, learned, source.ema)
        settle(network, device_of(source.device))
        yield network, tokenizer
        return
    if source.device is not None:
        rule = "with --tensor-parallel each process takes its own; leave it out"
        raise GenerationError(f"--device {source.device}: {rule}")
    with open_across(source.model, tensor, learned, source.ema) as both:
        yield both


def _guided(source: Source, order_from: Path, ordering: "Ordering") -> "tuple[Generator, Tokenizer]":
    from armd_dist.errors import GenerationError
    from armd_dist.export.open import device_of, open_generator, settle
    from armd_dist.generation.guided import GuidedARMD
    from armd_dist.model.armd import ARMD
    from armd_dist.model.learned_order import LearnedOrderDenoiser

    told = f"--order-from {order_from}"
    if ordering.name != "learned":
        raise GenerationError(f"{told}: is for --order learned; leave it out with --order {ordering.name}")
    if ordering.steps is not None:
        rule = "leaves passes without a place, and ARMD fills one at least in each"
        raise GenerationError(f"--steps {ordering.steps}: {rule}; use --block-size with --order-from, or neither")
    if source.tensor > 1:
        raise GenerationError(f"{told}: two networks stand on one process; leave out --tensor-parallel")
    network, tokenizer = open_generator(source.model, False, source.ema)
    guide, theirs = open_generator(order_from, True, source.ema)
    if theirs.sha256 != tokenizer.sha256:
        raise GenerationError(f"{told}: reads another tokenizer's tokens than {source.model}; train both on one")
    assert isinstance(network, ARMD), "`open_generator` has asked"
    assert isinstance(guide, LearnedOrderDenoiser), "`open_generator` has asked"
    for one in (network, guide):
        settle(one, device_of(source.device))
    return GuidedARMD(network, guide), tokenizer
