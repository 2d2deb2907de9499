"""What is settled before the first step: the data fits the model, and all processes start at the same place."""

from pathlib import Path

import torch.distributed as dist

from armd_dist.errors import ArmdError, ConfigError, Problem
from armd_dist.parallel.topology import Topology
from armd_dist.run import Run
from armd_dist.training.run_folder import claim, find_start
from data_pipeline.manifest import Manifest
from data_pipeline.stream import TokenStream


def open_data(run: Run) -> TokenStream:
    """The run's data. Raises DataError, or ConfigError where its vocabulary is not the model's."""
    stream = TokenStream(run.data.path, run.data.sequence_length, run.training.seed)
    found, wanted = stream.manifest.vocab_size, run.model.vocab_size
    if found != wanted:
        rule = f"data.path={run.data.path} was made by a tokenizer of {found} tokens"
        raise ConfigError([Problem("model.vocab_size", wanted, rule, f"use model.vocab_size={found}, or other data")])
    return stream


def agree_on_start(run: Run, topology: Topology, manifest: Manifest) -> tuple[Path | None, list[str]]:
    """The checkpoint to continue from (None: start anew) and what to tell the user.

    The main process alone looks at the run folder and takes it; the others get its answer, or raise its error.
    """
    answer: list[tuple[Path | None, list[str]] | ArmdError | None] = [None]
    if topology.is_main:
        try:
            answer[0] = find_start(run, manifest.hash(), manifest.tokenizer_sha256)
            claim(run, Path(run.data.path) / manifest.tokenizer)
        except ArmdError as error:
            answer[0] = error
    dist.broadcast_object_list(answer, src=0)
    assert answer[0] is not None
    if isinstance(answer[0], ArmdError):
        raise answer[0]
    return answer[0]
