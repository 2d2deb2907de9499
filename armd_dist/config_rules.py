"""Rules that tie several settings together; `config` adds them to what it finds wrong with single ones."""

from armd_dist.errors import Problem
from armd_dist.orders.learned_rules import learned_order_problems
from armd_dist.orders.rules import order_problems
from armd_dist.run import Run


def cross_problems(run: Run, world_size: int | None = None) -> list[Problem]:
    """Rules that tie several settings together."""
    problems = _model_problems(run) + _data_problems(run) + _orders_problems(run) + _schedule_problems(run)
    problems += _checkpoint_problems(run) + _health_problems(run) + _parallel_problems(run)
    problems += _logging_problems(run)
    return problems + (_world_problems(run, world_size) if world_size is not None else [])


def _model_problems(run: Run) -> list[Problem]:
    model, tensor = run.model, run.parallel.tensor
    problems = []
    if model.hidden_size % model.num_attention_heads:
        rule = f"does not divide model.hidden_size={model.hidden_size}"
        problems.append(
            Problem("model.num_attention_heads", model.num_attention_heads, rule, _use_divisors(model.hidden_size, 64))
        )
    elif model.head_dim % 2 and model.position_embedding != "learned":
        rule = f"gives heads of odd width {model.head_dim}, which rotary positions cannot pair"
        problems.append(
            Problem("model.num_attention_heads", model.num_attention_heads, rule, "make hidden_size / heads even")
        )
    grouped = model.num_key_value_heads != model.num_attention_heads
    if model.num_attention_heads % model.num_key_value_heads:  # type: ignore[operator]
        rule = f"does not divide model.num_attention_heads={model.num_attention_heads}"
        remedy = _use_divisors(model.num_attention_heads)
        problems.append(Problem("model.num_key_value_heads", model.num_key_value_heads, rule, remedy))
    if model.query_context in ("linear", "both") and model.position_embedding == "rotary":
        rule = "weighs tokens by learned positions, which model.position_embedding=rotary does not have"
        remedy = "use model.position_embedding=both or learned, or model.query_context=neighbours"
        problems.append(Problem("model.query_context", model.query_context, rule, remedy))
    if model.network == "armd" and model.two_stream_layers == 0 and model.query_context == "none":
        rule = "leaves a query without any token to see where model.two_stream_layers=0"
        problems.append(Problem("model.query_context", "none", rule, "use neighbours, or a two-stream layer"))
    if model.network == "denoiser" and model.query_place == "previous":
        rule = "moves the query stream, and model.network=denoiser has none"
        problems.append(Problem("model.query_place", "previous", rule, "use model.query_place=own"))
    if model.two_stream_layers > model.num_layers:  # type: ignore[operator]
        rule = f"is more than model.num_layers={model.num_layers}"
        problems.append(
            Problem("model.two_stream_layers", model.two_stream_layers, rule, f"use 0 to {model.num_layers}")
        )
    for path, size in (
        ("model.num_attention_heads", model.num_attention_heads),
        *([("model.num_key_value_heads", model.num_key_value_heads)] if grouped else []),
        ("model.ffn_hidden_size", model.ffn_hidden_size),
        ("model.padded_vocab_size", model.padded_vocab_size),
    ):
        if size % tensor:  # type: ignore[operator]
            problems.append(Problem("parallel.tensor", tensor, f"does not divide {path}={size}", _use_divisors(size)))  # type: ignore[arg-type]
    if run.data.sequence_length > model.max_sequence_length:
        rule = f"is longer than model.max_sequence_length={model.max_sequence_length}"
        problems.append(
            Problem("data.sequence_length", run.data.sequence_length, rule, "shorten it or raise the model's")
        )
    return problems


def _data_problems(run: Run) -> list[Problem]:
    data, mixture = run.data, run.data.mixture or []
    if data.path is None and data.mixture is None:
        remedy = "name a folder that armd data build wrote, or several by data.mixture=[{path: DIR, weight: 1}, ...]"
        return [Problem("data.path", "", "is missing", remedy)]
    if data.path is not None and data.mixture is not None:
        return [Problem("data.path", data.path, "stands beside data.mixture", "keep one of the two")]
    problems, paths = [], [dataset.path for dataset in mixture]
    for number, dataset in enumerate(mixture):
        name = f"data.mixture.{number}"
        if dataset.path in paths[:number]:
            rule = "is in the mixture already"
            problems.append(Problem(f"{name}.path", dataset.path, rule, "name it once, with the sum of its weights"))
        problems += [Problem(f"{name}.weight", weight, *found) for weight, *found in _weight_problems(dataset.weight)]
    if mixture and not problems:
        for start in sorted({start for dataset in mixture for start in dataset.weight}):
            if not any(_weight_at(dataset.weight, start) for dataset in mixture):
                rule = f"leaves no dataset to read from sample {start} on: all weights are 0"
                weights = {dataset.path: dataset.weight for dataset in mixture}
                problems.append(Problem("data.mixture", weights, rule, "give one of them a positive weight there"))
    return problems


def _weight_problems(weight: dict[int, float]) -> list[tuple[object, str, str]]:
    """(value, rule, remedy) of what is wrong with one dataset's weights, {first sample: weight}."""
    values, shown = list(weight.values()), weight if len(weight) > 1 else next(iter(weight.values()), weight)
    if 0 not in weight:
        return [(weight, "says nothing of the first samples", "start with a weight from sample 0 on: {0: 1, ...}")]
    if min(weight) < 0:
        return [(weight, "starts before sample 0", "count samples from the start of training")]
    if min(values) < 0:
        return [(shown, "is negative", "use a positive weight")]
    if max(values) == 0:
        return [(shown, "never reads this dataset", "use a positive weight, or leave the dataset out")]
    return []


def _weight_at(weight: dict[int, float], sample: int) -> float:
    return weight[max(start for start in weight if start <= sample)]


def _orders_problems(run: Run) -> list[Problem]:
    found = order_problems(run.orders, run.data.sequence_length, run.model.network)
    return found + learned_order_problems(run.model, run.orders, run.training, run.data, run.parallel)


def _schedule_problems(run: Run) -> list[Problem]:
    training = run.training
    problems = []
    if training.warmup_steps > training.steps:
        rule = f"is more than training.steps={training.steps}"
        problems.append(Problem("training.warmup_steps", training.warmup_steps, rule, "warm up for fewer steps"))
    if training.min_learning_rate > training.learning_rate:
        rule = f"is above training.learning_rate={training.learning_rate}"
        problems.append(Problem("training.min_learning_rate", training.min_learning_rate, rule, "lower it"))
    if training.stop_at is not None and training.stop_at > training.steps:
        rule = f"is more than training.steps={training.steps}"
        problems.append(Problem("training.stop_at", training.stop_at, rule, "stop earlier, or leave it out"))
    if training.global_batch_size % training.micro_batch_size:
        rule = f"is not a multiple of training.micro_batch_size={training.micro_batch_size}"
        problems.append(Problem("training.global_batch_size", training.global_batch_size, rule, "use a multiple of it"))
    if training.precision == "bf16" and run.parallel.zero_stage == 0:
        rule = "DeepSpeed keeps fp32 master weights for bf16 only from ZeRO stage 1 on"
        problems.append(
            Problem("parallel.zero_stage", 0, rule, "use parallel.zero_stage=1, or training.precision=fp32")
        )
    return problems


def _checkpoint_problems(run: Run) -> list[Problem]:
    problems, settings = [], run.checkpoint
    every, kept = settings.every, settings.keep_every
    if kept is not None and kept % every:
        rule = f"is not a multiple of checkpoint.every={every}, so that most of the steps it names save nothing"
        problems.append(Problem("checkpoint.keep_every", kept, rule, f"use {every * -(-kept // every)}"))
    if settings.weights_from is not None and settings.resume not in ("auto", "never"):
        rule = f"begins a new run, and checkpoint.resume={settings.resume} continues one"
        remedy = "use checkpoint.weights_from=null, or checkpoint.resume=auto"
        problems.append(Problem("checkpoint.weights_from", settings.weights_from, rule, remedy))
    return problems


def _health_problems(run: Run) -> list[Problem]:
    if run.health.rewind and run.health.spike_factor is None:
        return [Problem("health.rewind", True, "needs health.spike_factor, which finds the spikes", "set it to 10")]
    return []


def _logging_problems(run: Run) -> list[Problem]:
    fault = run.logging.profile_fault(run.training.stop_at or run.training.steps)
    return [Problem("logging.profile", run.logging.profile, *fault)] if fault else []


def _parallel_problems(run: Run) -> list[Problem]:
    problems = []
    if run.parallel.offload_optimizer and run.parallel.zero_stage == 0:
        rule = "is what DeepSpeed does for a sharded optimizer, and parallel.zero_stage=0 shards nothing"
        problems.append(Problem("parallel.offload_optimizer", True, rule, "use parallel.zero_stage=1, 2 or 3"))
    if run.parallel.zero_stage == 3 and run.parallel.pipeline > 1:
        rule = "takes weights away between uses, and DeepSpeed's gradient norm over pipeline stages is then wrong"
        problems.append(Problem("parallel.zero_stage", 3, rule, "use 1 or 2, or parallel.pipeline=1"))
    if run.parallel.virtual_pipeline > 1 and run.parallel.pipeline == 1:
        rule = "divides the stages of a pipeline, and parallel.pipeline=1 is none"
        remedy = "use parallel.virtual_pipeline=1, or parallel.pipeline=2 or more"
        problems.append(Problem("parallel.virtual_pipeline", run.parallel.virtual_pipeline, rule, remedy))
    stages = run.parallel.pipeline * run.parallel.virtual_pipeline
    if stages > run.model.num_layers:
        rule = (
            f"x virtual_pipeline={run.parallel.virtual_pipeline} makes {stages} stages of {run.model.num_layers} layers"
        )
        remedy = f"use at most model.num_layers={run.model.num_layers} stages"
        problems.append(Problem("parallel.pipeline", run.parallel.pipeline, rule, remedy))
    chosen = run.parallel.recompute
    if isinstance(chosen, list) and len(chosen) != run.parallel.pipeline:
        rule = f"has {len(chosen)} entries for parallel.pipeline={run.parallel.pipeline} ranks"
        remedy = f"give {run.parallel.pipeline}, or one word for all of them"
        problems.append(Problem("parallel.recompute", chosen, rule, remedy))
    if run.training.compile and run.parallel.zero_stage == 3:
        rule = "would compile layers whose weights ZeRO 3 fetches module by module"
        problems.append(Problem("training.compile", True, rule, "use false, or parallel.zero_stage=1 or 2"))
    if run.training.compile and "selective" in chosen:
        rule = "chooses itself which cheap results of a layer are computed again"
        problems.append(Problem("training.compile", True, rule, "use parallel.recompute=none or full"))
    if run.parallel.sequence:
        problems += [Problem("parallel.sequence", True, *found) for found in _sequence_problems(run)]
    return problems


def _sequence_problems(run: Run) -> list[tuple[str, str]]:
    """(rule, remedy) of whatever keeps the rows from being split."""
    problems, tensor, length = [], run.parallel.tensor, run.data.sequence_length
    if tensor == 1:
        problems.append(
            ("splits rows over the processes of parallel.tensor, which is 1", "use parallel.tensor=2 or more")
        )
    if length % tensor:
        rule = f"splits data.sequence_length={length} rows over parallel.tensor={tensor} processes evenly"
        problems.append((rule, f"use a multiple of {tensor}, or another parallel.tensor"))
    if run.model.network == "denoiser":
        rule = "cannot split the rows of model.network=denoiser evenly: BOS stands before copies of the text"
        problems.append((rule, "use parallel.sequence=false"))
    elif run.model.query_context in ("linear", "both"):
        rule = f"leaves no process all of the rows that model.query_context={run.model.query_context} sums over"
        problems.append((rule, "use parallel.sequence=false, or model.query_context=neighbours or none"))
    return problems


def _world_problems(run: Run, world_size: int) -> list[Problem]:
    parallel, training = run.parallel, run.training
    model_parallel = parallel.tensor * parallel.pipeline
    if world_size % model_parallel:
        if parallel.pipeline > 1:
            rule = f"x pipeline={parallel.pipeline} does not divide the {world_size} processes of this job"
            remedy = f"start a multiple of {model_parallel} processes"
        else:
            rule = f"does not divide the {world_size} processes of this job"
            remedy = f"start a multiple of {model_parallel} processes, or {_use_divisors(world_size)}"
        return [Problem("parallel.tensor", parallel.tensor, rule, remedy)]
    per_pass = world_size // model_parallel * training.micro_batch_size
    if training.global_batch_size % per_pass:
        rule = f"is not a multiple of micro_batch_size x data parallel = {per_pass}"
        remedy = f"use a multiple of {per_pass}, or a smaller micro-batch"
        return [Problem("training.global_batch_size", training.global_batch_size, rule, remedy)]
    passes = training.global_batch_size // per_pass
    if parallel.virtual_pipeline > 1 and passes % parallel.pipeline:
        rule = f"makes {passes} micro-batches, and virtual stages take them in groups of parallel.pipeline"
        remedy = f"use a multiple of {per_pass * parallel.pipeline}, or parallel.virtual_pipeline=1"
        return [Problem("training.global_batch_size", training.global_batch_size, rule, remedy)]
    return []


def _use_divisors(size: int, largest: int | None = None) -> str:
    divisors = [d for d in range(1, min(size, largest or size) + 1) if size % d == 0]
    if len(divisors) > 12:
        return "use " + ", ".join(map(str, divisors[:12])) + " ..."
    return "use " + (", ".join(map(str, divisors[:-1])) + f" or {divisors[-1]}" if len(divisors) > 1 else "1")
