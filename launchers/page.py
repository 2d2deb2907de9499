"""What --dry-run shows: a page for a person, and a batch script for sbatch --test-only, in one text."""

from armd_dist.config import to_yaml
from armd_dist.run import Run
from armd_dist.scaling.plan import Plan
from launchers.config import ClusterConfig
from launchers.slurm import sbatch_script
from launchers.verdict import in_words

TITLE = "# What would be submitted. Nothing has been; the whole text is a script that sbatch --test-only takes."


def page(run: Run, cluster: ClusterConfig, plan: Plan | None) -> str:
    """The job in short, its script, and every setting of the run; all but the script in comments."""
    shebang, script = sbatch_script(run, cluster).split("\n", 1)
    short = [f"#   {name:<11}{text}".rstrip() for name, text in _short(run, cluster, plan)]
    settings = [f"#   {line}".rstrip() for line in to_yaml(run).splitlines()]
    return "\n".join([shebang, TITLE, "#", *short, script, "", "# The run, every setting written out:", "#", *settings])


def _short(run: Run, cluster: ClusterConfig, plan: Plan | None) -> list[tuple[str, str]]:
    training, parallel = run.training, run.parallel
    kind = "each with a GPU" if cluster.gpus_per_node else "without GPUs"
    data = cluster.world_size // (parallel.tensor * parallel.pipeline)
    places = ("partition", "account", "qos", "constraint")
    verdict = in_words(plan, cluster)
    return [
        ("run", run.run.dir),
        (
            "job",
            f"{cluster.nodes} node(s) x {cluster.processes_per_node} = {cluster.world_size} process(es), {kind}; "
            f"at most {cluster.time}",
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
