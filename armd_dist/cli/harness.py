"""`armd lm-eval`: the tasks of lm-evaluation-harness, by its own command line."""

import sys

import typer

INSTALL = "lm_eval is not installed; pip install 'armd-dist[lm-eval]'"


def harness(context: typer.Context) -> None:
    """Run tasks of lm-evaluation-harness; all arguments are those of its own command, `lm-eval run`.

    --model armd is set. --model_args: path=RUN|CHECKPOINT|EXPORT, and where wanted streams=S (texts scored and written
    in S streams), orders=K (scored by the bound over K random orders), ema, dtype, max_length, stride, seed.

    Example: armd lm-eval --model_args path=runs/mine,streams=4 --tasks lambada_openai --batch_size 16
    """
    from armd_dist.cli.place import own_world_size
    from armd_dist.errors import EvaluationError

    if (processes := own_world_size()) != 1:
        raise EvaluationError(f"WORLD_SIZE={processes}: armd lm-eval works in one process; start it without torchrun")
    try:
        from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]  an optional extra

        import armd_dist.evaluation.harness  # noqa: F401  registers the model
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lm_eval":
            raise
        raise EvaluationError(INSTALL) from error
    from armd_dist.export.open import device_of

    # The harness itself takes for granted that there is a GPU.
    device = [] if "--device" in context.args else ["--device", str(device_of(None))]
    sys.argv = ["lm-eval", "run", "--model", "armd", *device, *context.args]
    cli_evaluate()
