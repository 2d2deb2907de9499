"""The command line. Each verb lives in a file of its own and imports what is heavy only when it runs."""

import os
import sys
import time
import traceback

import typer

from armd_dist.cli import (
    checkpoint,
    config,
    data,
    evaluate,
    export,
    generate,
    harness,
    import_,
    launch,
    plan,
    quickstart,
    scaling,
    serve,
    tokenizer,
    train,
)
from armd_dist.errors import ArmdError, Stopped, tell_launcher
from data_pipeline.errors import DataError

HOLD_BACK_S = 3.0
# sysexits.h's EX_TEMPFAIL: try again. Under torchrun, which has exit codes of its own, each process' code.
STOPPED = 75

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Train, evaluate, generate with and export Auto-Regressive Masked Diffusion language models.\n\n"
    "The whole story in a few minutes: [bold]make quickstart[/bold]. Each command has --help with an example.",
)
app.command("quickstart")(quickstart.quickstart)
app.add_typer(tokenizer.app, name="tokenizer")
app.add_typer(data.app, name="data")
app.command("config")(config.config)
app.command("plan")(plan.plan)
app.add_typer(scaling.app, name="scaling")
app.command("train")(train.train)
app.add_typer(launch.app, name="launch")
app.add_typer(checkpoint.app, name="checkpoint")
app.command("eval")(evaluate.evaluate)
app.command("lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(harness.harness)
app.command("generate")(generate.generate)
app.command("export")(export.export)
app.command("import")(import_.import_)
app.command("serve")(serve.serve)


def main() -> None:
    """Runs a verb. An error that the user can mend is printed without a traceback, with exit code 2."""
    try:
        app()
    except Stopped as stopped:
        tell_launcher(str(stopped))
        if os.environ.get("RANK", "0") == "0":
            print(stopped, file=sys.stderr)
        sys.exit(STOPPED)
    except (ArmdError, DataError) as error:
        tell_launcher(str(error))
        # The processes of a machine meet the same error; one voice is enough. The others hold back a little: torchrun
        # ends all as soon as one has ended.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            for line in str(error).splitlines():
                print(f"error: {line}" if not line.startswith(" ") else line, file=sys.stderr)
        else:
            time.sleep(HOLD_BACK_S)
        sys.exit(2)
    except Exception:
        tell_launcher(traceback.format_exc())
        raise
