"""The loss on held-out text while training, comparable from the first step to the last."""

from armd_dist.errors import ConfigError, Problem
from armd_dist.orders.curriculum import LEFT_TO_RIGHT, Position
from armd_dist.parallel.engine import Engine
from armd_dist.parallel.topology import Topology
from armd_dist.run import Run
from armd_dist.training.batches import Batches
from armd_dist.training.start import open_stream
from data_pipeline.mixture import Mixture
from data_pipeline.stream import TokenStream

# Whatever the curriculum does: a denoiser draws its maskings by the sample's number, so they too are always the same.
ALWAYS = Position(LEFT_TO_RIGHT, 1, 0)


class Validation:
    """Always the same samples of `validation.path`, left to right; a denoiser's under maskings that never change."""

    def __init__(self, run: Run, trained_on: Mixture, topology: Topology) -> None:
        """Raises DataError or ConfigError where the dataset does not fit the run."""
        assert run.validation.path is not None, "asked for"
        stream = open_stream(run, run.validation.path)
        _refuse_misfit(run, trained_on, stream)
        self.every, self.count = run.validation.every, run.validation.batches
        self.batches = Batches(run, Mixture([stream], [{0: 1.0}]), topology.data_rank, topology.data_size)

    def due(self, step: int, last: bool) -> bool:
        """Whether to measure after `step` steps."""
        return last or step % self.every == 0

    def loss(self, engine: Engine) -> float:
        """Nats per token. Collective."""
        losses = [engine.evaluate(self.batches.at(number, ALWAYS)) for number in range(self.count)]
        return sum(losses) / len(losses)


def _refuse_misfit(run: Run, trained_on: Mixture, stream: TokenStream) -> None:
    path, problems = run.validation.path, []
    if stream.manifest.tokenizer_sha256 != trained_on.manifest.tokenizer_sha256:
        rule = "was made by another tokenizer than the data that is trained on"
        problems.append(Problem("validation.path", path, rule, "build it with the same one"))
    wanted = run.validation.batches * run.training.global_batch_size
    if wanted > stream.num_windows:
        rule = (
            f"x training.global_batch_size={run.training.global_batch_size} is more than the {stream.num_windows} "
            f"windows of {path}"
        )
        most = stream.num_windows // run.training.global_batch_size
        remedy = f"use at most {most}" if most else "hold more text out, or leave validation.path away"
        problems.append(Problem("validation.batches", run.validation.batches, rule, remedy))
    if problems:
        raise ConfigError(problems)
