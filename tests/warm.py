"""A process that has imported the engines and forks what the tests start: a fifth of a second instead of six.

Started by ranks.py. It reads a request a line, and answers with the id of the process that runs it and then with its
exit code. That process is as a new one would be, with an environment, a folder and output files of its own; but what
its imports make of the environment, or print, is tested by those who start a new one (`anew` in ranks.py).
"""

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import time
from typing import TypedDict

HOLDS_OUT_S = 30.0


class Request(TypedDict):
    """words: what to run, "-m MODULE" or a script, with its arguments; processes: None without ranks."""

    words: list[str]
    processes: int | None
    port: int
    cwd: str
    environment: dict[str, str]
    out: str
    err: str


def warm_up() -> None:
    """Whatever training and evaluation import. transformers is left out: it reads the environment."""
    for name in ("cli.main", "training.loop", "evaluation.report", "generation.generate", "scaling.stages"):
        importlib.import_module(f"armd_dist.{name}")
    importlib.import_module("torch._dynamo")  # which the first optimizer imports


def serve() -> Request | None:
    """What to run, in a process of its own; None in the one that serves, at its end."""
    answers = os.dup(1)
    os.dup2(2, 1)
    warm_up()
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.close(answers)
            return json.loads(line)
        os.write(answers, f"{child}\n".encode())
        os.write(answers, f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())
    return None


def settle(request: Request) -> None:
    """Makes this process look like a new one; of several, each returns, and the one that started them never does."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for descriptor, path in enumerate((os.devnull, request["out"], request["err"])):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    if request["processes"] is not None:
        start_ranks(request["processes"], request["port"])


def start_ranks(count: int, port: int) -> None:
    """Returns in each of `count` processes. As torchrun does, the first that fails ends all, with exit code 1."""
    world = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = set()
    for rank in range(count):
        child = os.fork()
        if not child:
            mine = world | {"RANK": rank, "LOCAL_RANK": rank}
            os.environ.update({name: str(value) for name, value in mine.items()})
            return
        running.add(child)
    failed_at = None
    while running:
        child, status = os.waitpid(-1, os.WNOHANG)
        running -= {child}
        if child and status and failed_at is None:
            failed_at = time.monotonic()
            send(running, signal.SIGTERM)
        if failed_at is not None and time.monotonic() > failed_at + HOLDS_OUT_S:
            send(running, signal.SIGKILL)
        if not child:
            time.sleep(0.01)
    os._exit(0 if failed_at is None else 1)


def send(processes: set[int], number: signal.Signals) -> None:
    for process in processes:
        os.kill(process, number)


def run(words: list[str]) -> None:
    """As `python WORDS` would."""
    module = words[0] == "-m"
    sys.argv = words[1:] if module else words
    if module:
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(words[0]))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    request = serve()
    if request is not None:
        settle(request)
        run(request["words"])
