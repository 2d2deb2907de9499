"""What --dry-run shows: a page for a person, and a batch script for sbatch --test-only, in one text."""

from collections.abc import Sequence

from armd_dist.config import to_yaml
from launchers.checks import Job
from launchers.slurm import sbatch_script
from launchers.sweep import sweep_script
from launchers.verdict import in_words

TITLE = "# What would be submitted. Nothing has been; the whole text is a script that sbatch --test-only takes."


def page(job: Job, limit: int | None, then: Sequence[str]) -> str:
    """The job in short, its script, and every setting of its first run; all but the script in comments."""
    runs, cluster = job.runs, job.cluster
    text = sbatch_script(runs[0], cluster, job.at) if len(runs) == 1 else sweep_script(runs, cluster, limit, job.at)
    shebang, script = text.split("\n", 1)
    at = [("each", f"{job.at.every:,} steps: armd {each}") for each in job.at.commands] if job.at else []
    told = [*_short(job), *at, *(("then", f"armd {each}") for each in then)]
    short = [f"#   {name:<11}{text}".rstrip() for name, text in told]
    title = "# The run, every setting written out:" if len(runs) == 1 else "# The first run, every setting written out:"
    settings = [f"#   {line}".rstrip() for line in to_yaml(runs[0]).splitlines()]
    return "\n".join([shebang, TITLE, "#", *short, script, "", title, "#", *settings])


def _short(job: Job) -> list[tuple[str, str]]:
    run, cluster = job.runs[0], job.cluster
    training, parallel = run.training, run.parallel
    kind = "each with a GPU" if cluster.gpus_per_node else "without GPUs"
    fewer = f", or as few as {cluster.world_sizes[0]}" if cluster.min_nodes else ""
    data = cluster.world_size // (parallel.tensor * parallel.pipeline)
    places = ("partition", "account", "qos", "constraint")
    verdict = in_words(job.plan, cluster)
    return [
        *(("run" if number == 0 else "", each.run.dir) for number, each in enumerate(job.runs)),
        (
            "job",
            f"{cluster.nodes} node(s) x {cluster.processes_per_node} = {cluster.world_size} process(es){fewer}, "
            f"{kind}; at most {cluster.time}",
        ),
        *((place, value) for place in places if (value := getattr(cluster, place))),
        (
            "layout",
            f"tensor {parallel.tensor} x pipeline {parallel.pipeline} x data {data}, ZeRO {parallel.zero_stage}",
        ),
        (
            "training",
            f"{training.steps:,} steps of {training.global_batch_size:,} x {run.data.sequence_length:,} tokens, "
            f"{training.micro_batch_size:,} sample(s) at a time in a process, {training.precision}",
        ),
        ("plan", verdict[0]),
        *(("", line) for line in verdict[1:]),
    ]
