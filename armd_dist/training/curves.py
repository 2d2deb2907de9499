"""The curves of a run in wandb."""

import netrc
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from armd_dist.run import Run

# What a slow network may hold up the end. It fits between a cluster's signal and its SIGKILL.
UPLOAD_S = 60.0


class Curves:
    """The run's metrics in wandb, once the main process has started it. The block's end uploads what is left.

    Not under watch: all is saved by then, and a slow upload is no hang.
    """

    def __init__(self) -> None:
        self.wandb: Any = None

    def __enter__(self) -> Self:
        return self

    def start(self, run: Run) -> None:
        """Offline where no key is set; not at all where logging.wandb=disabled."""
        self.wandb = _start_wandb(run)

    def log(self, metrics: dict[str, Any], step: int) -> None:
        if self.wandb is not None:
            self.wandb.log(metrics, step=step)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.wandb is None:
            return
        try:
            self.wandb.finish()
        except TimeoutError:
            folder = Path(self.wandb.dir).parent
            text = f"wandb: not all was uploaded in {UPLOAD_S:.0f} s; `wandb sync {folder}` does the rest"
            print(f"warning: {text}", file=sys.stderr, flush=True)


def _start_wandb(run: Run) -> Any:
    """A wandb run, offline where no key is set; None where logging.wandb=disabled."""
    if run.logging.wandb == "disabled":
        return None
    import wandb  # large and slow to import: only where it is used

    mode = run.logging.wandb
    if mode == "auto":
        mode = "online" if _has_wandb_key() else "offline"
    folder = Path(run.run.dir).resolve()
    return wandb.init(
        project=run.logging.project,
        name=folder.name,
        id=_wandb_id(folder),
        resume="allow",
        mode=mode,
        dir=folder,
        config=run.model_dump(mode="json"),
        settings=wandb.Settings(silent=True, finish_timeout=UPLOAD_S, finish_timeout_raises=True),
    )


def _has_wandb_key() -> bool:
    """Whether `wandb login` or the environment has left a key; asks no server, which a compute node may not reach."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _wandb_id(folder: Path) -> str:
    """One id for the life of a run folder, so that resumed parts join one curve."""
    file = folder / "wandb_id"
    if not file.exists():
        file.write_text(os.urandom(6).hex())
    return file.read_text()
