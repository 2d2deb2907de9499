"""Where the texts of a batch end, and how many passes that leaves them to need."""

import torch
from torch import Tensor

from armd_dist.generation.passes import BEHIND, KNOWN
from armd_dist.model.shapes import Ids


class Ends:
    """What is known of it after each pass. An end counts where it was generated behind all that is known of its text.

    places: [batch] places of each text up to its end, that one included; needed: passes until all of them are filled.
    Both follow from which token stands where, and not from when somebody looks.
    """

    def __init__(self, turns: Ids, eos_id: int | None) -> None:
        self.turns, self.eos_id = turns, eos_id
        self.last_turn = turns.cummax(1).values
        at = torch.arange(turns.shape[1])
        last_known = torch.where(turns == KNOWN, at, -1).amax(1, keepdim=True)
        self.may_end = (turns > KNOWN) & (at > last_known)
        self.places = (turns != BEHIND).sum(1)
        self.needed = self._needed()
        self.waiting: tuple[Tensor, torch.cuda.Event] | None = None

    def note(self, placed: Tensor, text: Tensor, number: int) -> None:
        """After pass `number`: its tokens, and the text as of `Decoding`.

        On a GPU it is the pass before that is asked about, which has ended by then: the next one need not wait for the
        host to have looked.
        """
        if self.eos_id is None:
            return
        found = (placed == self.eos_id).any()
        if not found.is_cuda:
            if found:
                self.look(text, number)
            return
        if self.waiting is not None:
            before, done = self.waiting
            done.synchronize()
            if before:
                self.look(text, number)
        told = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(found, non_blocking=True)
        self.waiting = told, torch.cuda.Event()
        self.waiting[1].record()

    def look(self, text: Tensor, number: int) -> None:
        """Finds the ends among all tokens that pass `number` and those before it have placed."""
        final = self.may_end & (self.turns <= number) & (text[:, 1:-1].cpu() == self.eos_id)
        self.places = torch.where(final.any(1), final.int().argmax(1) + 1, self.places)
        self.needed = self._needed()

    def _needed(self) -> list[int]:
        return self.last_turn.gather(1, (self.places - 1).clamp(min=0)[:, None])[:, 0].tolist()
