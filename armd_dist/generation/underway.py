"""One text of a continuous batch: its order laid out as columns, what stands in it so far, and when it is over."""

from collections.abc import Sequence

import numpy as np
import torch

from armd_dist.generation.passes import KNOWN, check_length, lay_columns, make_batch
from armd_dist.generation.requests import Prepared, Sample
from armd_dist.generation.sampling import Sampling, draw_uniforms
from armd_dist.model.shapes import Ids
from data_pipeline.tokenizer import Tokenizer

# Fields of a text's table, a number for each column: the slot in the text (BOS has 0), the place, the neighbours'
# slots and distances, and the columns that stand before its block and up to its end.
SLOT, PLACE, LEFT, LEFT_DISTANCE, RIGHT, RIGHT_DISTANCE, BEGIN, END = range(8)


class Text:
    """A text that is decoded with others, on the CPU; nothing in it depends on them.

    tokens, logprobs (nats): [1 + places + 1], BOS first and a place for padding last; 0 nats where nothing was placed.
    top: likeliest tokens to note with each token placed; tops: those of a place, from 0, as (token, nats). number:
    passes so far. end: places up to the text's end as far as it is known.
    """

    def __init__(self, prepared: Prepared, sampling: Sampling, bos_id: int, eos_id: int | None, top: int = 0) -> None:
        self.prepared, self.sampling, self.eos_id, self.top = prepared, sampling, eos_id, top
        ids, turns = make_batch([prepared.ids], [prepared.turns], bos_id)
        self._lay(turns)
        self.tokens = np.concatenate(([bos_id], ids[0].numpy(), [bos_id]))
        self.logprobs = np.zeros(len(self.tokens))
        self.tops: dict[int, list[tuple[int, float]]] = {}
        self.uniforms = self._draw(prepared.request.seed)
        self.number = 0
        self.end = len(self.turns)
        known = np.flatnonzero(self.turns == KNOWN)
        self.last_known = int(known[-1]) if len(known) else -1
        self.final = 0
        self._advance()

    def choose(self, places: np.ndarray) -> None:
        """Has the next pass fill these open places, from 0, and later ones all the others."""
        turns = np.where(self.turns > self.number, self.number + 2, self.turns)
        turns[places] = self.number + 1
        self._lay(torch.from_numpy(turns)[None])

    @property
    def open(self) -> np.ndarray:
        """[places], true where nothing stands yet."""
        return self.turns > self.number

    @property
    def done(self) -> bool:
        """Whether no place before the text's end is open."""
        return self.number >= int(self._needed[self.end - 1])

    @property
    def known(self) -> int:
        """Tokens that were given."""
        return self.ends[0] - 1

    @property
    def content(self) -> slice:
        """Columns whose tokens the next pass reads."""
        return slice(0 if self.number == 0 else self.ends[self.number - 1], self.ends[self.number])

    @property
    def query(self) -> slice:
        """Columns whose rows look for tokens in the next pass, those of the known ones in the first."""
        return slice(1 if self.number == 0 else self.ends[self.number], self.ends[self.number + 1])

    @property
    def block(self) -> slice:
        """Columns that the next pass fills."""
        return slice(self.ends[self.number], self.ends[self.number + 1])

    def rows(self, fields: Sequence[int], columns: slice) -> np.ndarray:
        """[fields, columns] of the table, with tokens for slots."""
        found = self.table[list(fields), columns]
        for number, field in enumerate(fields):
            if field in (SLOT, LEFT, RIGHT):
                found[number] = self.tokens[found[number]]
        return found

    def seen(self, vocab_size: int) -> np.ndarray:
        """[vocab], true for the tokens that stand in it so far, BOS apart."""
        found = np.zeros(vocab_size, dtype=bool)
        found[self.tokens[self.table[SLOT, 1 : self.ends[self.number]]]] = True
        return found

    def put(self, tokens: np.ndarray, logprobs: np.ndarray, tops: Sequence[list[tuple[int, float]]]) -> None:
        """The tokens of the next block, and what was noted beside them where that was asked for."""
        slots = self.table[SLOT, self.block]
        self.tokens[slots], self.logprobs[slots] = tokens, logprobs
        self.tops.update(zip((slots - 1).tolist(), tops, strict=False))
        self.number += 1
        if self.eos_id is not None:
            ends = slots[(tokens == self.eos_id) & (slots - 1 > self.last_known)]
            self.end = min([self.end, *ends.tolist()])
        self._advance()

    def placed(self) -> list[int]:
        """Places, from 0, that the latest pass has filled."""
        return (self.table[SLOT, self.ends[self.number - 1] : self.ends[self.number]] - 1).tolist()

    def generated(self, upto: int) -> np.ndarray:
        """Places, from 0, before `upto` whose tokens were generated, in text order."""
        turns = self.turns[:upto]
        return np.flatnonzero((turns > KNOWN) & (turns <= self.number))

    def sample(self, tokenizer: Tokenizer) -> Sample:
        """What `answer` says of a text that is done."""
        mine = self.generated(self.end) + 1
        tokens = self.tokens[mine].tolist()
        shown = self.tokens[1 : self.end + 1].tolist() if self.prepared.request.infill else tokens
        return Sample(tokenizer.decode(shown), tokens, self.logprobs[mine].tolist(), self.number)

    def _advance(self) -> None:
        """`final`: leading places that nothing will change any more, up to the end."""
        while self.final < self.end and self.turns[self.final] <= self.number:
            self.final += 1
        self.final = min(self.final, self.end)

    def _lay(self, turns: Ids) -> None:
        columns = lay_columns(turns)
        self.turns, self.ends = turns[0].numpy(), columns.ends
        self._needed = np.maximum.accumulate(self.turns)
        own = (columns.slots, columns.places, columns.left, columns.left_distance)
        own = (*own, columns.right, columns.right_distance)
        self.table = np.stack([*(part[0].numpy() for part in own), *_spans(columns.ends)])

    def _draw(self, seed: int) -> np.ndarray:
        """The n-th number of the text's seed for the n-th place that it fills, in text order, as `Decoding` has it."""
        holes = np.flatnonzero(self.turns > KNOWN) + 1
        made = np.zeros(len(self.tokens))
        made[holes] = draw_uniforms([seed], [len(holes)])[0].numpy()
        return made


def _spans(ends: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """For each column how many stand before its block, and up to its end. Known tokens are blocks of one."""
    known, sizes = np.arange(ends[0]), np.diff(ends)
    begin = np.concatenate((known, np.repeat(ends[:-1], sizes)))
    end = np.concatenate((known + 1, np.repeat(ends[1:], sizes)))
    return begin, end


def check_room(prepared: Prepared, longest: int) -> None:
    """Raises ValueError where the model takes no text of so many tokens."""
    new = sum(token is None for token in prepared.ids)
    check_length(len(prepared.ids) - new, new, longest)
