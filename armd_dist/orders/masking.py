"""Which tokens a masked-diffusion denoiser has to name: its counterpart of an order."""

import numpy as np
import numpy.typing as npt

Booleans = npt.NDArray[np.bool_]


def masked_places(length: int, block_length: int, generator: np.random.Generator) -> Booleans:
    """[length] whether each place is masked; every window of `block_length` places is drawn on its own.

    A window of w places (the last one may be short) gets a number k of masked places uniform on 1..w and a uniform
    subset of that size. This is the log-linear schedule of MDLM and BD3-LM with its time t integrated out: masking
    with chance t and weighing by 1 / t makes every k in 1..w as likely, and weighs a token by w / k (derived).
    """
    starts = np.arange(0, length, block_length)
    widths = np.minimum(block_length, length - starts)
    count = generator.integers(1, widths + 1)
    noise = np.full((len(starts), block_length), np.inf)
    noise.flat[:length] = generator.random(length)
    rank = noise.argsort(axis=1).argsort(axis=1)
    return (rank < count[:, None]).reshape(-1)[:length]
