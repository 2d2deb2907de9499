"""Where texts end does not depend on when somebody looks: at once, as on a CPU, or a pass later, as on a GPU."""

import numpy as np
import pytest
import torch
from torch import Tensor

from armd_dist.generation.ends import Ends
from armd_dist.generation.passes import KNOWN, turns_of
from armd_dist.orders.strided import strided_places

EOS, OTHER, TEXTS, LENGTH = 6, 3, 60, 14


def orders(kind: str) -> Tensor:
    """Turns [texts, places]; of `holes` the places of some known tokens, anywhere, differ from text to text."""
    if kind.startswith("strided"):
        return torch.tensor([turns_of(strided_places(LENGTH, int(kind[-1])))] * TEXTS)
    made = torch.stack([torch.from_numpy(1 + np.random.default_rng(n).permutation(LENGTH)) for n in range(TEXTS)])
    return torch.where(made > 10, KNOWN, made) if kind == "holes" else made


def followed(turns: Tensor, tokens: Tensor, late: int) -> tuple[list[int], list[int], int]:
    """Places up to each end, passes needed and passes run, where ends are looked for `late` passes after they came."""
    ends, number = Ends(turns, EOS), 0
    while any(needed > number for needed in ends.needed):
        number += 1
        there = torch.nn.functional.pad(torch.where(turns <= number, tokens, OTHER), (1, 1), value=OTHER)
        found = number > late and bool((tokens[turns == number - late] == EOS).any())
        if found:
            ends.look(there, number)
    ends.look(there, number)
    return ends.places.tolist(), ends.needed, number


@pytest.mark.parametrize("kind", ["strided_1", "strided_2", "strided_4", "random", "holes"])
def test_one_pass_late_is_early_enough(kind: str) -> None:
    turns = orders(kind)
    tokens = torch.where(torch.rand(turns.shape, generator=torch.Generator().manual_seed(1)) < 0.15, EOS, OTHER)
    places, needed, ran = followed(turns, tokens, late=0)
    assert followed(turns, tokens, late=1)[:2] == (places, needed)
    assert ran == max(needed)
    alone = [followed(turns[row : row + 1], tokens[row : row + 1], late=1) for row in range(TEXTS)]
    assert [one[1][0] for one in alone] == needed, "other texts have no part in it"
    more = {one[2] - one[1][0] for one in alone}
    assert more <= {0, 1}, "one pass too many at most"
    assert kind == "holes" or (len(more) == 2 and len(set(needed)) > 3), "there must be texts that end early"
    for row, end in enumerate(places):
        last_known = max((turns[row] == KNOWN).nonzero()[:, 0].tolist(), default=-1)
        behind = tokens[row, last_known + 1 : end].tolist()
        assert EOS not in behind[:-1]
        assert end == LENGTH or behind[-1] == EOS
