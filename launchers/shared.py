"""Whether all nodes of a job see its folder: the first thing that its batch script asks."""

import os
import shlex
from pathlib import Path

# A file system that nodes share may be late with what was made elsewhere.
PATIENCE_S = 10


def shared_folder_check(folder: Path, nodes: int) -> list[str]:
    """Shell lines that end the job where a node lacks `folder`, or the folder of submission that relative paths mean.

    They run before Python, whose code and work lie in that folder. A job of one node has shown that it sees it: its log
    lies there, too. The answer of a node comes through Slurm, since it could write it nowhere.
    """
    if nodes == 1:
        return []
    see = f'for _ in $(seq {PATIENCE_S}); do [ -d "$path" ] && break; sleep 1; done; [ -d "$path" ]'
    tell = (
        'echo "error: node ${SLURMD_NODENAME:-$(hostname)} does not see $path: run.dir and the folder of '
        'submission must lie on a file system that all nodes share" >&2'
    )
    script = f'for path in "$@"; do {see} || {{ {tell}; exit 1; }}; done'
    paths = shlex.join([str(folder), os.getcwd()])
    return [
        "# does every node see the job's folder?",
        f"srun --ntasks=$SLURM_JOB_NUM_NODES --ntasks-per-node=1 sh -c {shlex.quote(script)} sh {paths} || exit 1",
    ]
