"""The masked-diffusion bound of the denoiser (MDLM, BD3-LM): a micro-batch in which some tokens are hidden.

MDLM's NELBO under the log-linear schedule hides each token of a window with chance t, t uniform on (0, 1), and weighs
the nats of the hidden ones by 1 / t. With t integrated out the number of hidden tokens is uniform, every set of them
equally likely, and the weight is (window length) / (hidden tokens): the same bound, with less variance (derived).
"""

import numpy as np
import torch
from torch import Tensor

from armd_dist.model.denoiser import lay_out_masked
from armd_dist.model.shapes import Ids, Masked, Weights
from armd_dist.objectives.documents import tokens_before
from armd_dist.objectives.likelihood import MicroBatch
from armd_dist.orders.masking import masked_places


def draw_masking(length: int, window: int, seed: int, samples: list[int]) -> Masked:
    """[samples, length] which tokens are hidden, from (seed, global sample number) and nothing else."""
    return torch.from_numpy(np.stack([masked_places(length, window, seed, sample) for sample in samples]))


def masked_batch(
    ids: Ids, masked: Masked, window: int, bos_id: int, first_sample: int = 0, eos_id: int | None = None
) -> MicroBatch:
    """Texts [batch, rows] with these tokens hidden, weighted so that the mean over all tokens is the NELBO.

    eos_id: as in `ordered_batch`. The bound of a window is then the sum of its documents' own: what is hidden in one of
    them is independent of the others at each time t.
    """
    layout = lay_out_masked(ids, masked, window, bos_id, None if eos_id is None else tokens_before(ids, eos_id))
    return MicroBatch(layout, ids, nelbo_weights(masked, window), first_sample)


def nelbo_weights(masked: Masked, window: int) -> Weights:
    """Window length / hidden tokens of the window, for hidden tokens; 0 for known ones."""
    rows = masked.shape[1]
    of_row = torch.arange(rows) // window
    hidden = _per_window(masked.double(), of_row)
    length = _per_window(torch.ones_like(hidden), of_row)
    return torch.where(masked, length / hidden, 0.0)


def _per_window(values: Tensor, of_row: Tensor) -> Tensor:
    """The sum over each row's window, [batch, rows]."""
    sums = torch.zeros(values.shape[0], int(of_row[-1]) + 1, dtype=values.dtype)
    return sums.index_add(1, of_row, values)[:, of_row]
