"""Which process of a job this one is told to be, checked before torch is imported."""

import os

# What torchrun, a cluster's launcher or a user tells each process of a job.
PLACE = {
    "RANK": "the number of this process, from 0",
    "WORLD_SIZE": "the number of all processes",
    "MASTER_ADDR": "the machine of the process with RANK=0",
    "MASTER_PORT": "a free port of that machine",
}


def own_world_size() -> int:
    """Processes of this job, 1 where nobody says. Raises ConfigError: one that was told half of its place would train
    alone, or wait for others that never come."""
    from armd_dist.errors import ConfigError, Problem

    told = {name: os.environ[name] for name in PLACE if os.environ.get(name)}
    if "RANK" not in told and told.get("WORLD_SIZE", "1") == "1":
        return 1
    problems = []
    for name, meaning in PLACE.items():
        if name not in told:
            others = ", ".join(f"{name}={value}" for name, value in told.items())
            problems.append(
                Problem(name, "", f"is not set, but {others}", f"set it to {meaning}, or start with torchrun")
            )
        elif name != "MASTER_ADDR" and not told[name].isdecimal():
            problems.append(Problem(name, told[name], "is not a whole number", f"set it to {meaning}"))
    if not problems and int(told["RANK"]) >= int(told["WORLD_SIZE"]):
        rule = f"is not below WORLD_SIZE={told['WORLD_SIZE']}"
        problems.append(Problem("RANK", told["RANK"], rule, f"set it to {PLACE['RANK']}"))
    if problems:
        raise ConfigError(problems)
    return int(told["WORLD_SIZE"])
