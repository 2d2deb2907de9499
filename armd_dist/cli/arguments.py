"""Arguments that several verbs share."""

import typer

CONFIG = typer.Argument(metavar="CONFIG", help="YAML file of a run, see configs/.", show_default=False)
OVERRIDES = typer.Argument(metavar="[a.b=c ...]", help="Settings that replace the file's.", show_default=False)
MODEL = typer.Argument(
    metavar="CHECKPOINT|EXPORT", help="A run folder (its newest checkpoint), a checkpoint folder, or an export."
)
EMA = typer.Option("--ema", help="The average of the weights over training (training.ema_decay) in their place.")
DEVICE = typer.Option(help="Where to compute, for example cpu or cuda:1.", show_default="cuda where there is one")
