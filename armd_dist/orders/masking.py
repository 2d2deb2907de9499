"""Which tokens a masked-diffusion denoiser has to name: its counterpart of an order."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from armd_dist.orders.generators import generators

Booleans = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
GOLDEN = 0.6180339887498949  # steps of this fraction fill the unit interval evenly, however many there are


def masked_places(length: int, block_length: int, seed: int, sample: int) -> Booleans:
    """[length] whether each place of this sample is masked, from (seed, global sample index) and nothing else.

    Every window of `block_length` places (the last may be short, w places) gets a number k of masked places uniform on
    1..w and a uniform subset of that size. This is the log-linear schedule of MDLM and BD3-LM with its time t
    integrated out: masking with chance t and weighing by 1 / t makes every k in 1..w as likely, and weighs a token by
    w / k (derived). Samples that follow one another spread their k evenly, as MDLM spreads t over a batch.
    """
    starts = np.arange(0, length, block_length)
    widths = np.minimum(block_length, length - starts)
    count = 1 + (_spread(len(starts), seed, sample) * widths).astype(np.int64)
    noise = np.full((len(starts), block_length), np.inf)
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, sample))))
    noise.flat[:length] = generator.random(length)
    rank = noise.argsort(axis=1).argsort(axis=1)
    return (rank < count[:, None]).reshape(-1)[:length]


def masking_times(seed: int, samples: Sequence[int]) -> Floats:
    """[samples] the time t of each sample, uniform on [0, 1), from (seed, global sample index) and nothing else.

    Samples that follow one another spread their times evenly (low discrepancy), whatever the batch.
    """
    return np.array([_spread(1, seed, sample)[0] for sample in samples])


def masking_noise(length: int, seed: int, samples: Sequence[int], draw: int) -> Floats:
    """[samples, length] uniform on [0, 1): a place is hidden where its noise is below 1 - alpha.

    From (seed, global sample index, draw) and nothing else. draw: which of a sample's independent maskings this is.
    """
    return np.array([generator.random(length) for generator in generators(seed, samples, draw)])


def _spread(count: int, seed: int, sample: int) -> Floats:
    """[count] uniform on [0, 1), each spread evenly over samples that follow one another."""
    offset = np.random.default_rng(np.random.SeedSequence((seed, count))).random(count)
    return (offset + sample * GOLDEN) % 1.0
