"""Arguments that several verbs share."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import torch

CONFIG = typer.Argument(metavar="CONFIG", help="YAML file of a run, see configs/.", show_default=False)
OVERRIDES = typer.Argument(metavar="[a.b=c ...]", help="Settings that replace the file's.", show_default=False)
MODEL = typer.Argument(
    metavar="CHECKPOINT|EXPORT", help="A run folder (its newest checkpoint), a checkpoint folder, or an export."
)
EMA = typer.Option("--ema", help="The average of the weights over training (training.ema_decay) in their place.")
DEVICE = typer.Option(help="Where to compute, for example cpu or cuda:1.", show_default="cuda where there is one")


def device_of(name: str | None) -> "torch.device":
    """What --device names; None: a GPU where there is one. Raises ConfigError where it cannot be used."""
    import torch

    from armd_dist.errors import ConfigError, Problem

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError([Problem("--device", name, f"cannot be used here ({reason})", "use --device cpu")]) from error
    return device
