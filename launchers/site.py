"""What Slurm says against a job before it is submitted: its partitions, their nodes, their limits."""

import re
import subprocess
from dataclasses import dataclass
from operator import attrgetter

from armd_dist.errors import Problem
from launchers.config import ClusterConfig
from launchers.walltime import minutes_of

GPUS_OF_GRES = re.compile(r"gpu(?::[^:,()]+)?:(\d+)")


@dataclass(frozen=True)
class Node:
    """memory: MB."""

    gpus: int
    cpus: int
    memory: int
    features: frozenset[str]


def site_problems(cluster: ClusterConfig) -> list[Problem]:
    """What the cluster whose login node this is cannot give; nothing where Slurm is missing or does not answer.

    A job that may run in several partitions has a problem only where none of them suits it.
    """
    partitions = {found["PartitionName"]: found for found in _partitions()}
    if not partitions:
        return []
    defaults = [name for name, found in partitions.items() if found.get("Default") == "YES"]
    names = cluster.partition.split(",") if cluster.partition else defaults
    unknown = [name for name in names if name not in partitions]
    if unknown:
        return [
            Problem("cluster.partition", cluster.partition, f"there is no {' or '.join(unknown)}", _choice(partitions))
        ]
    each = [_partition_problems(cluster, partitions[name]) for name in names]
    return [] if not all(each) else each[0]


def _choice(partitions: dict[str, dict[str, str]]) -> str:
    marked = [f"{name} (default)" if found.get("Default") == "YES" else name for name, found in partitions.items()]
    return "use one of " + ", ".join(marked)


def _partition_problems(cluster: ClusterConfig, partition: dict[str, str]) -> list[Problem]:
    name = partition["PartitionName"]
    nodes = _nodes(name)
    problems, suited = _node_problems(cluster, name, nodes) if nodes else ([], [])
    most = [len(suited)] if suited else []
    # A quality of service may lift its partition's limits.
    limits = {} if cluster.qos else partition
    longest = _minutes(limits.get("MaxTime", ""))
    if longest is not None and minutes_of(cluster.time) > longest:
        rule = f"is longer than partition {name} allows"
        problems.append(Problem("cluster.time", cluster.time, rule, f"use at most {limits['MaxTime']}"))
    most += [int(limit) for limit in [limits.get("MaxNodes", "")] if limit.isdigit()]
    if most and (cluster.min_nodes or cluster.nodes) > min(most):
        rule = f"partition {name} has at most {min(most)} node(s) for such a job"
        problems.append(
            Problem("cluster.nodes", cluster.nodes, rule, f"use at most {min(most)}, or another --partition")
        )
    return problems


def _node_problems(cluster: ClusterConfig, partition: str, nodes: list[Node]) -> tuple[list[Problem], list[Node]]:
    """Of single nodes, and which nodes have none of them. Each ask is of the nodes that suited those before it."""
    each, problems = cluster.processes_per_node, []
    if cluster.constraint and re.fullmatch(r"[\w-]+", cluster.constraint):  # what is more, only Slurm understands
        suited = [node for node in nodes if cluster.constraint in node.features]
        if not suited:
            known = ", ".join(sorted(frozenset[str]().union(*(node.features for node in nodes))))
            rule = f"is a feature of no node of partition {partition}"
            problems.append(Problem("cluster.constraint", cluster.constraint, rule, f"they have {known}"))
        nodes = suited or nodes
    for setting, amount, unit, what in (
        ("gpus_per_node", attrgetter("gpus"), 1, "GPU(s)"),
        ("cpus_per_task", attrgetter("cpus"), each, f"core(s) for each of {each} process(es)"),
        ("mem_gb", attrgetter("memory"), 1024, "GB"),
    ):
        wanted, most = getattr(cluster, setting) or 0, max(map(amount, nodes)) / unit
        suited = [node for node in nodes if amount(node) >= wanted * unit]
        if not suited:
            rule = f"the nodes of partition {partition} have at most {most:g} {what}"
            problems.append(
                Problem(f"cluster.{setting}", wanted, rule, f"use at most {most:g}, or another --partition")
            )
        nodes = suited or nodes
    return problems, nodes


def _partitions() -> list[dict[str, str]]:
    return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in _lines("scontrol", "-o", "show", "partition")]


def _nodes(partition: str) -> list[Node]:
    nodes = []
    for line in _lines("sinfo", "-h", "-N", "-p", partition, "-o", "%G|%c|%m|%f"):
        gres, cpus, memory, features = line.strip().split("|")
        gpus = sum(map(int, GPUS_OF_GRES.findall(gres)))
        nodes.append(Node(gpus, int(cpus.rstrip("+")), int(memory.rstrip("+")), frozenset(features.split(","))))
    return nodes


def _lines(*command: str) -> list[str]:
    """What a command prints; nothing where it is missing or fails: sbatch will then say more of it than we could."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _minutes(limit: str) -> int | None:
    try:
        return minutes_of(limit)
    except ValueError:
        return None  # UNLIMITED
