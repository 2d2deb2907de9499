"""`armd launch`: training as a job, on this machine or on a Slurm cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armd_dist.cli import jobs, parts
from armd_dist.cli.arguments import CONFIG, OVERRIDES
from armd_dist.cli.then import problems_of

if TYPE_CHECKING:
    import submitit

    from armd_dist.errors import Problem
    from armd_dist.run import Run
    from launchers.checkpoints import AtCheckpoints
    from launchers.checks import Job
    from launchers.watch import Failure

app = typer.Typer(no_args_is_help=True, help="Start training as a job, on this machine or on a Slurm cluster.")
app.command()(parts.parts)
app.command()(jobs.status)
app.command()(jobs.logs)
app.command()(jobs.cancel)

NOT_CLUSTER = (
    *("path", "overrides", "cluster", "dry_run", "force", "sweep", "limit"),
    *("then", "at_checkpoints", "every", "wait"),
)
SHOWN_RANKS = 8

Wait = Annotated[bool, typer.Option("--wait", help="Follow the job to its end; fail if it fails.")]
Cluster = Annotated[
    str | None, typer.Option(help="Defaults: the name of a cluster, as in configs/cluster/, or a YAML file.")
]
SignalSeconds = Annotated[
    int | None, typer.Option(help="Seconds before the time limit at which the job saves and ends; else 120.")
]
Sweep = Annotated[
    list[str] | None, typer.Option(metavar="a.b=c,d", help="A run for each value, as one array; repeatable.")
]
Then = Annotated[
    list[str] | None, typer.Option(metavar='"eval {run} ..."', help="An armd command for afterwards; repeatable.")
]
At = Annotated[
    list[str] | None,
    typer.Option(
        metavar='"eval {checkpoint} ..."',
        help='An armd command for each checkpoint of --every, as in "eval {checkpoint} --data DIR --out '
        '{run}/eval/{step}"; repeatable.',
    ),
]
Every = Annotated[
    int | None, typer.Option(min=1, help="Steps between these checkpoints; a multiple of checkpoint.keep_every.")
]


@app.command()
def local(
    path: Annotated[Path, CONFIG],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes; each takes one GPU where there are any.")] = 1,
    debug: Annotated[
        bool, typer.Option("--debug", help="Train in this very process, and open pdb where an error comes up.")
    ] = False,
    wait: Wait = False,
) -> None:
    """Train in several processes on this machine; returns at once.

    Example: armd launch local configs/quickstart.yaml parallel.tensor=2 --processes 2 --wait
    """
    if debug and processes > 1:
        raise typer.BadParameter(f"--debug is of one process, this one: --processes {processes} cannot be")

    from armd_dist.config import load_run

    run = load_run(path, overrides, world_size=processes)

    from launchers.local import debug_local, launch_local

    if debug:
        debug_local(run)
        return
    job = launch_local(run, processes)
    _report(job, run)
    if wait:
        _follow(job)


@app.command()
def slurm(
    path: Annotated[Path, CONFIG],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    cluster: Cluster = None,
    nodes: Annotated[str | None, typer.Option(help="Machines; 2-4: what can be had first of these.")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(help="One process for each GPU; 0: a CPU job.")] = None,
    tasks_per_node: Annotated[int | None, typer.Option(help="Processes of each node of a CPU job.")] = None,
    cpus_per_task: Annotated[int | None, typer.Option(help="CPU cores of each process.")] = None,
    gpu_memory_gb: Annotated[float | None, typer.Option(help="Memory of each GPU, to refuse what cannot fit.")] = None,
    mem_gb: Annotated[float | None, typer.Option(help="Memory of each node.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit, D-HH:MM:SS or HH:MM:SS; else one day.")] = None,
    signal_seconds: SignalSeconds = None,
    max_crashes: Annotated[int | None, typer.Option(help="Restarts after crashes, at most; else 10.")] = None,
    partition: Annotated[str | None, typer.Option(help="Partition to run in.")] = None,
    account: Annotated[str | None, typer.Option(help="Account that is charged.")] = None,
    qos: Annotated[str | None, typer.Option(help="Quality of service.")] = None,
    constraint: Annotated[str | None, typer.Option(help="Features that the nodes must have.")] = None,
    setup: Annotated[list[str] | None, typer.Option(help="Shell line before the processes start; repeatable.")] = None,
    sweep: Sweep = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Runs of a sweep at a time, at most.")] = None,
    then: Then = None,
    at_checkpoints: At = None,
    every: Every = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script and settings; submit nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Submit even what cannot fit the GPUs' memory.")] = False,
    wait: Wait = False,
) -> None:
    """Submit training to Slurm; returns at once. Run it on a login node, in a folder that all nodes see.

    Example: armd launch slurm configs/quickstart.yaml --nodes 2 --gpus-per-node 8 --time 2-00:00:00 --partition gpu

    With defaults of your cluster: armd launch slurm configs/quickstart.yaml --cluster my_cluster.yaml --dry-run
    """
    # First of all, while the flags are the only names here.
    given = {name: value for name, value in locals().items() if name not in NOT_CLUSTER and value not in (None, [])}

    from launchers.checks import load_job

    _refuse_without_each_other(wait, sweep, limit)
    at, found = _at_checkpoints(at_checkpoints or [], every)
    found += problems_of(then or [])
    job = load_job(path, overrides or [], cluster, given, sweep or [], force or dry_run, found, at)
    if dry_run:
        from launchers.page import page

        typer.echo(page(job, limit, then or []))
        return
    started = _submit(job, bool(sweep), limit, then or [])
    if wait:
        _follow(started)


def _refuse_without_each_other(wait: bool, sweep: list[str] | None, limit: int | None) -> None:
    if wait and sweep:
        raise typer.BadParameter("--wait follows one job, and a sweep has many: see armd launch status")
    if limit and not sweep:
        raise typer.BadParameter("--limit is of the runs of a sweep: give --sweep, or leave it out")


def _at_checkpoints(commands: list[str], every: int | None) -> "tuple[AtCheckpoints | None, list[Problem]]":
    """What was asked for, if anything was, and what armd itself would say against the commands."""
    from launchers.checkpoints import FORM, OPTION, AtCheckpoints

    if bool(commands) != bool(every):
        missing, given = ("--every N", OPTION) if commands else (f"{OPTION} COMMAND", "--every")
        raise typer.BadParameter(f"{given} needs {missing}: give both, or neither")
    if not every:
        return None, []
    return AtCheckpoints(every, tuple(commands)), problems_of(commands, OPTION, f"write it without armd, {FORM}")


def _submit(job: "Job", sweep: bool, limit: int | None, then: list[str]) -> "submitit.Job[None]":
    """Submits all and tells of it; returns the first job."""
    from launchers.followup import launch_after
    from launchers.slurm import launch_slurm
    from launchers.sweep import launch_sweep
    from launchers.verdict import in_words

    for line in in_words(job.plan, job.cluster) if job.plan else []:
        typer.echo(line)
    if sweep:
        started = launch_sweep(job.runs, job.cluster, limit, job.at)
        _report_sweep(started, job.runs)
    else:
        started = [launch_slurm(job.runs[0], job.cluster, job.at)]
        _report(started[0], job.runs[0])
    if job.at is not None:
        for command in job.at.commands:
            typer.echo(f"  each    {job.at.every:,} steps: armd {command}")
    for first, run in zip(started, job.runs, strict=True):
        for record in launch_after(first, Path(run.run.dir), then, job.cluster):
            typer.echo(f"  then    {record.id}  armd {record.command}, log {record.log(0)}")
    return started[0]


def _report(job: "submitit.Job[None]", run: "Run") -> None:
    folder = run.run.dir
    typer.echo(f"job {job.job_id}: {job.num_tasks} process(es)")
    typer.echo(f"  logs    {job.paths.folder}/{job.job_id}_RANK_log.err and .out")
    typer.echo(f"  follow  armd launch logs -f {folder}")
    typer.echo(f"  state   armd launch status {folder}")
    typer.echo(f"  cancel  armd launch cancel {folder}")


def _report_sweep(jobs: "list[submitit.Job[None]]", runs: "list[Run]") -> None:
    folder = Path(runs[0].run.dir).parent
    typer.echo(f"{len(jobs)} jobs of {jobs[0].num_tasks} process(es)")
    for job, run in zip(jobs, runs, strict=True):
        typer.echo(f"  {job.job_id}  {run.run.dir}")
    typer.echo(f"  logs    {jobs[0].paths.folder}/JOB_RANK_log.err and .out")
    typer.echo(f"  follow  armd launch logs -f {runs[0].run.dir}")
    typer.echo(f"  state   armd launch status {folder}")
    typer.echo(f"  cancel  armd launch cancel {folder}, or of one run")


def _follow(job: "submitit.Job[None]") -> None:
    """Shows the log of the first process to the end. Exits with 1 where the job failed."""
    from launchers import watch

    def show(text: str) -> None:
        typer.echo(text, nl=False, err=True)

    try:
        failures = watch.follow(job, show)
    except KeyboardInterrupt:
        typer.echo(watch.interrupt(job), err=True)
        raise typer.Exit(130) from None
    if not failures:
        typer.echo(f"job {job.job_id} is done")
        return
    _tell(job, failures)
    raise typer.Exit(1)


def _tell(job: "submitit.Job[None]", failures: "list[Failure]") -> None:
    ranks_of: dict[str, list[int]] = {}
    for failure in failures:
        ranks_of.setdefault(failure.reason, []).append(failure.rank)
    first = failures[0]
    typer.echo(f"\njob {job.job_id} failed", err=True)
    if 0 not in ranks_of[first.reason]:  # the log of process 0 has been shown as it was written
        typer.echo(f"the last lines of process {first.rank}, {first.stderr}:\n{first.tail()}\n", err=True)
    for reason, ranks in ranks_of.items():
        more = f" and {len(ranks) - SHOWN_RANKS} more" if len(ranks) > SHOWN_RANKS else ""
        typer.echo(f"error: process {', '.join(map(str, sorted(ranks)[:SHOWN_RANKS]))}{more}: {reason}", err=True)
