"""A Slurm of the tests' own: two nodes on this machine, without systemd or cgroups, in one folder.

As a program, `python tests/launchers/cluster.py FOLDER`, it is the cluster: it says `ready`, and ends everything once
its standard input is closed, however the process that held the other end has ended, and FOLDER with it. Commands find
it by SLURM_CONF=FOLDER/slurm.conf.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Whatever resolves names takes these for 127.0.0.1 and 127.0.0.2, so that jobs find their first node by its name.
NODES = ("0x7f000001", "0x7f000002")
# Sixteen more, of eight GPUs each, that could be had from a cloud: Slurm plans with them, and nothing runs there.
CLOUD = "big[01-16]"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
INSTALL = ("apt-get", "install", "-y", "--no-install-recommends", "slurm-wlm", "munge")
START_S = 60.0
STOP_S = 20.0

CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,requeue_delay=1,sched_min_interval=0
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
LaunchParameters=disable_send_gids
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
SlurmdTimeout=60
SlurmctldTimeout=60
KillWait=5
MinJobAge=3600
GresTypes=gpu
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=4000 State=UNKNOWN
PrivateData=cloud
ResumeProgram=/bin/true
SuspendProgram=/bin/true
SuspendTime=-1
NodeName={cloud} CPUs=64 RealMemory=1000000 Gres=gpu:8 State=CLOUD
PartitionName=low Nodes={nodes[0]},{nodes[1]} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes={nodes[0]},{nodes[1]} PriorityTier=10 PreemptMode=OFF
PartitionName=brief Nodes={nodes[0]},{nodes[1]} MaxTime=00:01:00 PriorityTier=1 PreemptMode=OFF
PartitionName=gpus Nodes={cloud} MaxTime=7-00:00:00 PriorityTier=1 PreemptMode=OFF
"""


def why_not() -> str | None:
    """Why no cluster can be started here, or None. Installs Slurm where it is missing and that can be done."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    if not _missing():
        return None
    if shutil.which("apt-get") is None:
        return f"no {', '.join(_missing())}, and no apt-get to install them"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(INSTALL, capture_output=True, text=True, check=False, timeout=300, env=environment)
    if done.returncode == 0 and not _missing():
        return None
    return f"{' '.join(INSTALL)} failed: {done.stderr.strip()[-300:]}"


def _missing() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Daemons:
    """Munge, the controller, and a node's daemon for each node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """Returns once a job can run on both nodes. Raises RuntimeError where that takes too long."""
        self._write()
        munge = {
            "key": "--key-file",
            "socket": "--socket",
            "pid": "--pid-file",
            "log": "--log-file",
            "seed": "--seed-file",
        }
        self._spawn("munged", "--foreground", "--force", *(f"{o}={self.folder}/munge.{n}" for n, o in munge.items()))
        self._spawn("slurmctld", "-D", "-c")
        # A node that finds no controller tries again only half a minute later.
        self._until("the controller answers", lambda: "is UP" in self._ask("scontrol", "ping"))
        for node in NODES:
            self._spawn("slurmd", "-D", "-N", node)
        self._until(
            "the nodes are idle", lambda: self._ask("sinfo", "-h", "-p", "low", "-o", "%D %t").strip() == "2 idle"
        )

    def stop(self) -> None:
        """Ends jobs, daemons, and whatever of theirs is left."""
        self._ask("scancel", "--state=PENDING")
        self._ask("scancel", "--state=RUNNING")
        deadline = time.monotonic() + STOP_S
        while time.monotonic() < deadline and self._ask("squeue", "-h").strip():
            time.sleep(0.2)
        for daemon in reversed(self.running):
            daemon.terminate()
        for daemon in reversed(self.running):
            try:
                daemon.wait(STOP_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for process in self._left():
            os.kill(process, signal.SIGKILL)

    def _write(self) -> None:
        for name in ("state", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        controller, first, second = _free_ports(3)
        host = socket.gethostname().split(".")[0]
        places = {"host": host, "controller": controller, "first": first, "second": second}
        text = CONF.format(folder=self.folder, nodes=NODES, cloud=CLOUD, **places)
        (self.folder / "slurm.conf").write_text(text)

    def _spawn(self, *command: str) -> None:
        with open(self.folder / "daemons.log", "ab") as log:
            self.running.append(
                subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def _ask(self, *command: str) -> str:
        """What a command prints; nothing where the controller does not answer."""
        try:
            done = subprocess.run(
                command, env=self.environment, capture_output=True, text=True, check=False, timeout=STOP_S
            )
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout

    def _until(self, what: str, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not reached():
            ended = [daemon.args for daemon in self.running if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                log = (self.folder / "daemons.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"waited in vain until {what}; ended: {ended}\n{log}")
            time.sleep(0.1)

    def _left(self) -> list[int]:
        """Processes that were started within the cluster, and daemons of jobs."""
        mark, found = f"SLURM_CONF={self.folder}/slurm.conf".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                inside = mark in (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue  # it has just ended
            if inside and int(folder.name) not in (os.getpid(), os.getppid()):
                found.append(int(folder.name))
        return found


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def main() -> None:
    daemons = Daemons(Path(sys.argv[1]).resolve())
    try:
        daemons.start()
        print("ready", flush=True)
        sys.stdin.read()
    finally:
        daemons.stop()
        shutil.rmtree(daemons.folder)


if __name__ == "__main__":
    main()
