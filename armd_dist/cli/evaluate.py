"""`armd eval`: perplexity under strided and other orders, and bounds over random ones."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from armd_dist.cli import evaluate_options as option
from armd_dist.cli.arguments import DEVICE, EMA, MODEL
from armd_dist.cli.evaluate_options import Given
from armd_dist.cli.place import own_world_size

if TYPE_CHECKING:
    from rich.progress import Progress

    from armd_dist.evaluation.judge import Judge
    from armd_dist.evaluation.opening import Ready
    from armd_dist.evaluation.quality import Quality
    from armd_dist.evaluation.samples import Asked
    from armd_dist.evaluation.study import Findings, Material, Wanted
    from armd_dist.evaluation.texts import TextSet
    from data_pipeline.stream import TokenStream


def evaluate(
    model: Annotated[Path, MODEL],
    data: Annotated[str | None, option.DATA] = None,
    texts: Annotated[list[str] | None, option.TEXTS] = None,
    streams: Annotated[str | None, option.STREAMS] = None,
    blocks: Annotated[str | None, option.BLOCKS] = None,
    random_orders: Annotated[int | None, option.RANDOM_ORDERS] = None,
    windows: Annotated[int | None, option.WINDOWS] = None,
    samples: Annotated[int, option.SAMPLES] = 0,
    new_tokens: Annotated[int | None, option.NEW_TOKENS] = None,
    prompt_tokens: Annotated[int, option.PROMPT_TOKENS] = 0,
    temperature: Annotated[float, option.TEMPERATURE] = 1.0,
    top_p: Annotated[float | None, option.TOP_P] = None,
    judge: Annotated[Path | None, option.JUDGE] = None,
    judge_dtype: Annotated[option.JudgeDtype, option.JUDGE_DTYPE] = "float32",
    trust_remote_code: Annotated[bool, option.REMOTE_CODE] = False,
    out: Annotated[Path | None, option.OUT] = None,
    batch_size: Annotated[int, option.BATCH_SIZE] = 16,
    sequence_length: Annotated[int | None, option.LENGTH] = None,
    stride: Annotated[int | None, option.STRIDE] = None,
    dtype: Annotated[option.Dtype, option.DTYPE] = "float32",
    tensor_parallel: Annotated[int, option.TENSOR] = 1,
    pipeline_parallel: Annotated[int, option.PIPELINE] = 1,
    ema: Annotated[bool, EMA] = False,
    device: Annotated[str | None, DEVICE] = None,
) -> None:
    """Measure exact perplexity left to right and under strided orders, heads and parallel phase apart.

    With --random-orders also the bound over random orders; a denoiser (MDLM, BD3-LM) has its NELBO alone. With
    --samples and --judge also what generated texts are like, and how fast they come. Intervals are of 95 %. With --out:
    evaluation.json and the page report.html. Under torchrun all processes share the work, for the same figures.

    Example: armd eval runs/quickstart --data runs/quickstart-data/tokens/held_out --samples 64 --out runs/eval

    Zero-shot: armd eval RUN --texts configs/evaluation/zero_shot.yaml --texts lambada=lambada_test.jsonl

    On four processes: torchrun --nproc-per-node 4 -m armd_dist eval RUN --data DATA --tensor-parallel 2
    """
    _evaluate(Given(**locals()))


def _evaluate(given: Given) -> None:
    world_size = own_world_size()
    wanted, sets = _read(given, world_size)

    from armd_dist.evaluation.opening import make_ready, place
    from armd_dist.export.open import device_of
    from armd_dist.parallel.config import ParallelConfig

    layout = {"tensor": given.tensor_parallel, "pipeline": given.pipeline_parallel}
    with place(world_size, ParallelConfig.model_validate(layout)) as topology:
        where = device_of(given.device) if topology is None else topology.device
        ready = make_ready(given.model, topology, where, given.dtype, given.ema)
        material = _material(ready, given, sets)
        asked = _asked(ready, given, wanted) if given.samples else None
        judge = _judge(ready, given)
        findings = _measure(ready, material, wanted, given)
        if ready.team.rank == 0:
            generation = None if asked is None else _write_samples(ready, asked, wanted, given, judge)
            _tell(findings, generation, given)


def _read(given: Given, world_size: int) -> "tuple[Wanted, list[TextSet]]":
    """What can be checked before a model is opened. Raises EvaluationError."""
    from armd_dist.errors import EvaluationError
    from armd_dist.evaluation.study import Wanted, parse_numbers
    from armd_dist.evaluation.texts import load_named

    if given.device is not None and world_size > 1:
        raise EvaluationError(f"--device {given.device}: under torchrun each process takes its own; leave it out")
    if given.samples and given.data is None:
        raise EvaluationError(f"--samples {given.samples}: are held against held-out text; give --data too")
    if given.samples and given.tensor_parallel * given.pipeline_parallel > 1:
        rule = "are written by a whole model"
        raise EvaluationError(f"--samples {given.samples}: {rule}; leave out --tensor-parallel and --pipeline-parallel")
    wanted = Wanted(
        None if given.streams is None else parse_numbers("--streams", given.streams),
        None if given.blocks is None else parse_numbers("--blocks", given.blocks),
        given.random_orders,
    )
    return wanted, load_named(given.texts or [])


def _material(ready: "Ready", given: Given, sets: "list[TextSet]") -> "list[Material]":
    from armd_dist.errors import EvaluationError
    from armd_dist.evaluation.study import passages_of, windows_of
    from armd_dist.export.open import window_length

    length, stride = window_length(ready.opened, given.sequence_length), given.stride
    if stride is not None and stride > length:
        rule = f"leaves out what stands between windows of {length}"
        raise EvaluationError(f"--stride {stride}: {rule}; use at most {length}")
    made = [] if given.data is None else [windows_of(ready, _stream(ready, given), given.windows)]
    return made + [passages_of(ready, texts, length, stride or length) for texts in sets]


def _stream(ready: "Ready", given: Given) -> "TokenStream":
    from armd_dist.export.open import window_length
    from data_pipeline.manifest import check_tokenizer
    from data_pipeline.stream import TokenStream

    assert given.data is not None, "the caller has asked"
    stream = TokenStream(given.data, window_length(ready.opened, given.sequence_length), seed=0)
    check_tokenizer(stream.manifest, ready.opened.tokenizer, given.data)
    return stream


def _measure(ready: "Ready", material: "list[Material]", wanted: "Wanted", given: Given) -> "list[Findings]":
    """All of it, with a bar on rank 0."""
    from armd_dist.evaluation.journal import Journal, Record
    from armd_dist.evaluation.study import measure

    schemes = wanted.schemes(ready, material)
    rows = sum(scheme.draws for scheme in schemes)
    journal = None
    if given.out is not None:
        journal = (Journal[Record](given.out / "scores.jsonl"), _own(given))
    findings = []
    with _bar(shown=ready.team.rank == 0) as progress:
        for one in material:
            task = progress.add_task(f"evaluating {one.name}", total=len(one.source.shapes) * rows)
            advance = partial(progress.advance, task)
            findings.append(measure(ready, one, schemes, given.batch_size, journal, advance))
    return findings


def _own(given: Given) -> dict[str, Any]:
    """What tells this model's numbers and texts from others', where several are kept in one folder."""
    from armd_dist.generation.answers import weights_of

    return {"ema": given.ema, "dtype": given.dtype, "weights": weights_of(given.model)}


def _asked(ready: "Ready", given: Given, wanted: "Wanted") -> "Asked":
    """The samples that are wanted. Raises EvaluationError before anything is measured where they cannot be."""
    from armd_dist.errors import EvaluationError
    from armd_dist.evaluation.samples import Asked, check_asked
    from armd_dist.export.open import require_armd, window_length
    from armd_dist.generation.sampling import Sampling

    longest = window_length(ready.opened, given.sequence_length)
    try:
        sampling = Sampling(given.temperature, top_p=given.top_p)
    except ValueError as error:
        name, _, rest = str(error).partition("=")
        raise EvaluationError(f"--{name.replace('_', '-')}={rest}") from error
    new_tokens = given.new_tokens or longest - given.prompt_tokens
    ends = ready.opened.within_document
    asked = Asked(given.samples, new_tokens, given.prompt_tokens, 0, given.batch_size, sampling, ends)
    model = require_armd(ready.opened.network, given.model)
    check_asked(asked, wanted.sampled_streams, model.config.max_sequence_length)
    return asked


def _judge(ready: "Ready", given: Given) -> "Judge | None":
    """Where samples are written, before anything is measured: a folder that is none shall cost no time."""
    from armd_dist.errors import EvaluationError
    from armd_dist.evaluation.judge import open_judge

    if given.judge is None or ready.team.rank:
        return None
    if not given.samples:
        raise EvaluationError(f"--judge {given.judge}: reads samples; give --samples 64, say")
    return open_judge(given.judge, given.judge_dtype, str(ready.scorer.device), given.trust_remote_code)


def _write_samples(ready: "Ready", asked: "Asked", wanted: "Wanted", given: Given, judge: "Judge | None") -> "Quality":
    """Texts in each number of streams, what a judge makes of them, and the same of held-out ones."""
    from armd_dist.evaluation.journal import Journal, Text
    from armd_dist.evaluation.quality import evaluate_generation
    from armd_dist.export.open import require_armd

    model, streams = require_armd(ready.opened.network, given.model), wanted.sampled_streams
    with _bar(shown=True) as progress:
        steps = asked.count * len(streams) + (0 if judge is None else asked.count * (len(streams) + 1))
        advance = partial(progress.advance, progress.add_task("writing samples", total=steps))
        stream, tokenizer = _stream(ready, given), ready.opened.tokenizer
        kept = None if given.out is None else (Journal[Text](given.out / "samples.jsonl"), _own(given))
        return evaluate_generation(model, tokenizer, stream, streams, asked, judge, advance, kept=kept)


def _bar(shown: bool) -> "Progress":
    from rich.console import Console
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), transient=True, disable=not shown)


def _tell(findings: "list[Findings]", generation: "Quality | None", given: Given) -> None:
    from rich.console import Console

    from armd_dist.evaluation.report import samples_table, table, write_report

    for found in findings:
        Console().print(table(found))
    if generation is not None:
        Console().print(samples_table(generation))
    if given.out is not None:
        about = {"model": str(given.model), "ema": given.ema, "dtype": given.dtype}
        for path in write_report(given.out, about, findings, generation):
            typer.echo(f"{path} written")
