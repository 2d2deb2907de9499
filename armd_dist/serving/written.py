"""What a text's answer says so far: tokens become text, in text order, as they become final."""

from collections.abc import Sequence

from armd_dist.generation.underway import Text
from armd_dist.serving.engine import Landed, Step
from data_pipeline.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"  # what a decoder makes of bytes that are no character, perhaps not yet


class Spelling:
    """Text of tokens that come one by one, equal to the text of all of them at once.

    A few tokens are decoded at a time, with those before them, since a token's text may depend on its neighbours.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.text = ""
        self._tokens: list[int] = []
        self._begin = self._read = 0

    def push(self, token: int) -> None:
        """One more. What ends amid a character is held back until `flush` or the character's end."""
        self._tokens.append(token)
        self._decode(at_end=False)

    def flush(self) -> None:
        """There is nothing more."""
        self._decode(at_end=True)

    def _decode(self, at_end: bool) -> None:
        before = self.tokenizer.decode(self._tokens[self._begin : self._read])
        now = self.tokenizer.decode(self._tokens[self._begin :])
        if now.endswith(REPLACEMENT) and not at_end:
            return
        self.text += now[len(before) :]
        self._begin, self._read = self._read, len(self._tokens)


class Written:
    """One choice of an answer. finish: why it ended, None while it goes on.

    tokens: those generated, in text order, up to the end or the first stop; offsets: where each begins in `text`.
    """

    def __init__(self, text: Text, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._spelling = Spelling(tokenizer)
        self._stops = stops
        self._holes = [place for place, token in enumerate(text.prepared.ids) if token is None]
        self._landed: dict[int, Landed] = {}
        self._upto = 0
        self._sent_text = self._sent_tokens = 0
        self._eos_id, self._can_end = text.eos_id, self._holes[-1] > text.last_known
        self.first = self._holes[0]
        self.known = text.known
        self.passes = 0
        self.tokens: list[Landed] = []
        self.offsets: list[int] = []
        self.finish: str | None = None

    @property
    def text(self) -> str:
        return self._spelling.text

    def take(self, step: Step) -> None:
        """Reads what a pass has added; nothing after the finish."""
        if self.finish is not None:
            return
        self.passes += 1
        self._landed |= {landed.place: landed for landed in step.landed}
        while self.finish is None and self._upto < len(self._holes) and self._holes[self._upto] < step.final:
            self._push(self._landed[self._holes[self._upto]])
            self._upto += 1
        if step.done and self.finish is None:
            self._spelling.flush()
            self._look_for_stops()
            ended = self._can_end and self.tokens[-1].token == self._eos_id
            self.finish = self.finish or ("stop" if ended else "length")

    def unsent(self) -> tuple[str, list[int]]:
        """Text that can be sent now, with the numbers of its tokens; what may yet become a stop is held back."""
        upto = len(self.text) if self.finish else len(self.text) - self._held()
        text, self._sent_text = self.text[self._sent_text : upto], max(upto, self._sent_text)
        start = self._sent_tokens
        while self._sent_tokens < len(self.tokens) and (self.finish or self.offsets[self._sent_tokens] < upto):
            self._sent_tokens += 1
        return text, list(range(start, self._sent_tokens))

    def _push(self, landed: Landed) -> None:
        self.offsets.append(len(self.text))
        self.tokens.append(landed)
        self._spelling.push(landed.token)
        self._look_for_stops()

    def _look_for_stops(self) -> None:
        found = [at for at in (self.text.find(stop, self._since(stop)) for stop in self._stops) if at >= 0]
        if not found:
            return
        self._spelling.text = self.text[: min(found)]
        kept = sum(offset < min(found) for offset in self.offsets)
        self.tokens, self.offsets, self.finish = self.tokens[:kept], self.offsets[:kept], "stop"

    def _since(self, stop: str) -> int:
        """Nothing that was sent is looked at again: it held no stop."""
        return max(self._sent_text - len(stop), 0)

    def _held(self) -> int:
        """Characters at the end that may be the beginning of a stop."""
        lengths = range(max((len(stop) for stop in self._stops), default=1) - 1, 0, -1)
        return next((n for n in lengths if any(stop.startswith(self.text[-n:]) for stop in self._stops)), 0)
