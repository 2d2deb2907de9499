"""What is settled before the first step: the data fits the model, and all processes start at the same place."""

import os
from pathlib import Path

import torch.distributed as dist

from armd_dist.errors import ArmdError, ConfigError, Problem, RunFolderError, describe
from armd_dist.parallel.progress import beat
from armd_dist.parallel.topology import Topology, local_world_size
from armd_dist.run import Run
from armd_dist.training.batches import Begun
from armd_dist.training.run_folder import claim, find_start
from armd_dist.training.run_lock import RunLock
from armd_dist.training.verifying import ask_all, help_to_ask
from data_pipeline.background_check import BackgroundCheck
from data_pipeline.errors import DataError
from data_pipeline.ledger import Attempt, RankLedger, begin_attempt
from data_pipeline.mixture import Mixture
from data_pipeline.prefetch import check_room
from data_pipeline.shard_cache import Cache
from data_pipeline.stream import TokenStream


def open_data(run: Run) -> Mixture:
    """The run's data. Raises DataError, or ConfigError where its vocabulary is not the model's.

    Data of fewer windows than a global batch is refused: a step would hold a window twice, and with as many processes
    as samples some would have none of their own. The rule does not ask how many processes there are.
    """
    datasets = run.data.datasets
    streams = [open_stream(run, dataset.path) for dataset in datasets]
    mixture = Mixture(streams, [dataset.weight for dataset in datasets])
    found, wanted = mixture.manifest.vocab_size, run.model.vocab_size
    if found != wanted:
        rule = f"{datasets[0].path} was made by a tokenizer of {found} tokens"
        raise ConfigError([Problem("model.vocab_size", wanted, rule, f"use model.vocab_size={found}, or other data")])
    windows, batch = sum(stream.num_windows for stream in streams), run.training.global_batch_size
    if windows < batch:
        held = ", ".join(f"{stream.folder} ({stream.manifest.tokens:,} tokens)" for stream in streams)
        raise DataError(
            f"{held}: makes {windows} windows of data.sequence_length={run.data.sequence_length} tokens, fewer than "
            f"training.global_batch_size={batch}: a step would hold the same window twice, and processes that have one "
            f"sample each would have none of their own; use training.global_batch_size={windows} or less, a shorter "
            "data.sequence_length, or more text"
        )
    return mixture


def open_stream(run: Run, path: str) -> TokenStream:
    """A dataset as the run reads it, from a folder or through the cache. Raises DataError."""
    cache = Cache(run.data.cache_dir, run.data.cache_gb, local_world_size(), beat)
    return TokenStream(path, run.data.sequence_length, run.training.seed, cache)


def check_data(data: Mixture) -> BackgroundCheck:
    """Checksums of all shards from now on, by one process of each node: nodes may have copies of their own."""
    return BackgroundCheck(data.streams if os.environ.get("LOCAL_RANK", "0") == "0" else [])


def agree_on_start(run: Run, topology: Topology, data: Mixture, lock: RunLock) -> tuple[Path | None, list[str]]:
    """The checkpoint to continue from (None: start anew) and what to tell the user.

    The main process alone looks at the run folder and takes it; the others read their share of a checkpoint that it
    wants to take, and get its answer, or raise its error. All of them raise DataError where the cache of remote data is
    too small to work with.
    """
    room = check_room(data)
    answer: list[tuple[Path | None, list[str]] | ArmdError | None] = [None]
    if topology.is_main:
        try:
            held = lock.take()
            origin, notes = find_start(
                run, data.manifest.hash(), data.manifest.tokenizer_sha256, lambda path: ask_all(path, topology)
            )
            answer[0] = origin, [*room, *held, *notes]
            claim(run, data.streams[0].folder / data.manifest.tokenizer)
        except ArmdError as error:
            answer[0] = error
        except OSError as error:
            answer[0] = RunFolderError(f"run.dir={run.run.dir}: cannot be used ({describe(error)})")
        dist.broadcast_object_list(answer, src=0)
    else:
        answer[0] = help_to_ask(topology)
    assert answer[0] is not None
    if isinstance(answer[0], ArmdError):
        raise answer[0]
    return answer[0]


def open_ledger(run: Run, topology: Topology, data: Mixture, begun: Begun) -> RankLedger | None:
    """This rank's ledger of the steps from `begun` on; None where none is asked for, or another process writes it.

    Processes that share their data write once: the first of each model-parallel group. Collective.
    """
    if not run.data.ledger:
        return None
    folder: list[Path | None] = [None]
    if topology.is_main:
        attempt = Attempt.of(data, *begun, topology.data_size, run.training.global_batch_size)
        folder[0] = begin_attempt(Path(run.run.dir), attempt)
    dist.broadcast_object_list(folder, src=0)
    assert folder[0] is not None
    writes = topology.tensor_rank == 0 and topology.pipeline_rank == 0
    return RankLedger(folder[0], topology.data_rank) if writes else None
