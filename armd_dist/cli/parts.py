"""`armd launch parts`: one command for many parts of the same work."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from armd_dist.cli.then import problems_of

HELP = "write what stands behind armd, as in data build ... --part {part}/8"


def parts(
    words: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="What would stand behind armd.")],
    folder: Annotated[Path, typer.Option(help="Where logs and states of the parts are kept.")],
    number: Annotated[int, typer.Option("--parts", min=1, help="{part} in the command is 1 to this.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Parts at a time, at most.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Defaults, as of armd launch slurm.")] = None,
    partition: Annotated[str | None, typer.Option(help="Partition to run in.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit of a part, D-HH:MM:SS or HH:MM:SS.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPU cores of a part.")] = None,
    mem_gb: Annotated[float | None, typer.Option(help="Memory of a part.")] = None,
) -> None:
    """Submit one armd command for many parts of the same work, as one Slurm array of CPU jobs; returns at once.

    Example: armd launch parts --parts 8 --limit 4 --folder runs/build --cpus 16 -- data build --input 'texts/*.jsonl'
    --tokenizer tokenizer.model --out data/parts --workers 16 --part {part}/8
    """
    from armd_dist.errors import ConfigError, Problem
    from launchers.clusters import cluster_file
    from launchers.config import load_cluster
    from launchers.parts import launch_parts
    from launchers.site import site_problems

    flags = {"partition": partition, "time": time, "cpus_per_task": cpus, "mem_gb": mem_gb}
    whole = {"nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1, "signal_seconds": 60}
    given = {name: value for name, value in flags.items() if value is not None} | whole
    asked = load_cluster(None if cluster is None else cluster_file(cluster), given)
    first = shlex.join(word.replace("{part}", "1") for word in words)
    problems = problems_of([first], "COMMAND", HELP) + site_problems(asked)
    if number > 1 and not any("{part}" in word for word in words):
        problems.append(Problem("COMMAND", first, "does the same for every part", HELP))
    if problems:
        raise ConfigError(problems)
    records = launch_parts(words, number, limit, folder, asked)
    typer.echo(f"{len(records)} job(s), the first {records[0].id}")
    typer.echo(f"  logs    {records[0].folder}")
    typer.echo(f"  state   armd launch status {folder}")
    typer.echo(f"  cancel  armd launch cancel {folder}")
