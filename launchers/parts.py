"""One `armd` command for many parts of the same work, as an array: `data build` above all."""

from pathlib import Path

from launchers.config import ClusterConfig
from launchers.folder import fresh_folder
from launchers.followup import CommandJob
from launchers.record import Record
from launchers.slurm import executor_in, submit


def launch_parts(words: list[str], parts: int, limit: int | None, folder: Path, cluster: ClusterConfig) -> list[Record]:
    """Submits the command once for each part, at most `limit` at a time; returns at once. Raises LaunchError.

    {part} in a word stands for 1 to `parts`. Part i is followed by the folder/part-i, as a run is by its own.
    """
    executor = executor_in(fresh_folder(folder), cluster)
    executor.update_parameters(array_parallelism=limit or parts)
    numbers = range(1, parts + 1)
    works = [CommandJob([word.replace("{part}", str(number)) for word in words]) for number in numbers]
    records = [Record.of(job) for job in submit(executor, works)]
    for number, record in zip(numbers, records, strict=True):
        record.write(folder / f"part-{number}")
    return records
