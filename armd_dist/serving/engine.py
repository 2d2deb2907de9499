"""The thread that owns the model. Requests hand it texts over a queue, and get what each pass has added to them."""

import asyncio
import logging
import math
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from armd_dist.generation.continuous import ContinuousDecoder
from armd_dist.generation.underway import Text
from armd_dist.serving.refusals import Refusal, busy, closing, cut_short

log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Landed:
    """A token at its place, from 0; nats, and the likeliest tokens there with theirs where they were asked for."""

    place: int
    token: int
    nats: float
    tops: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Step:
    """What a pass has added to a text.

    final: leading places that stay as they are; end: places up to the text's end as far as it is known; done: nothing
    more comes.
    """

    landed: Sequence[Landed]
    final: int
    end: int
    done: bool


@dataclass(eq=False)
class Ticket:
    """A text that was handed in. events: number of the text in its request, and a step of it or why it failed."""

    text: Text
    number: int
    events: "asyncio.Queue[tuple[int, Step | Refusal]]"
    given_up: bool = False


@dataclass
class Counts:
    """What the engine has done since it began."""

    passes: int = 0
    tokens: int = 0
    failures: int = 0
    cancelled: int = 0


@dataclass(eq=False)
class Engine:
    """Texts wait in turn, take slots as these come free, and step together.

    max_queue: texts that may wait where no slot is free. Everything but the thread's own work is called from the event
    loop's thread.
    """

    decoder: ContinuousDecoder
    max_queue: int
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._turn = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._running: dict[Text, Ticket] = {}
        self._ends = False
        self.closing = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        """Begins to work; events go to the event loop that runs now."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    def submit(self, texts: Sequence[Text]) -> list[Ticket]:
        """All of them or none. Raises Refusal where too many wait, or the server ends."""
        events: asyncio.Queue[tuple[int, Step | Refusal]] = asyncio.Queue()
        tickets = [Ticket(text, number, events) for number, text in enumerate(texts)]
        with self._turn:
            if self.closing:
                raise closing()
            free = self.decoder.slots - len(self._running)
            if len(self._waiting) + len(tickets) > self.max_queue + free:
                raise busy(len(self._waiting))
            self._waiting.extend(tickets)
            self._turn.notify()
        return tickets

    def give_up(self, tickets: Iterable[Ticket]) -> None:
        """Nobody waits for these any more; those under way free their slots after the pass that runs."""
        with self._turn:
            for ticket in tickets:
                ticket.given_up = True
            staying = [ticket for ticket in self._waiting if not ticket.given_up]
            self.counts.cancelled += len(self._waiting) - len(staying)
            self._waiting = deque(staying)
            self._turn.notify()

    def fail_all(self) -> None:
        """Ends whatever waits or runs, with the word that the server ends."""
        with self._turn:
            tickets = [*self._waiting, *self._running.values()]
        for ticket in tickets:
            ticket.events.put_nowait((ticket.number, cut_short()))
        self.give_up(tickets)

    def stop(self) -> None:
        """Ends the thread after the pass that runs."""
        with self._turn:
            self._ends = True
            self._turn.notify()
        self._thread.join()

    def _work(self) -> None:
        while (joining := self._next()) is not None:
            try:
                stepped = self.decoder.step([ticket.text for ticket in joining])
            except Exception as error:
                log.exception("a pass failed; its texts are given up")
                self._fail(error)
                continue
            self.counts.passes += 1
            self._publish([(self._running[text], step_of(text)) for text in stepped])

    def _next(self) -> list[Ticket] | None:
        """Texts that join the next pass, once there is one to run; None at the end."""
        with self._turn:
            while True:
                if self._ends:
                    return None
                for ticket in [ticket for ticket in self._running.values() if ticket.given_up]:
                    self.decoder.leave(ticket.text)
                    del self._running[ticket.text]
                    self.counts.cancelled += 1
                joining = [self._waiting.popleft() for _ in range(min(self.decoder.free, len(self._waiting)))]
                self._running.update((ticket.text, ticket) for ticket in joining)
                if self._running:
                    return joining
                self._turn.wait()

    def _fail(self, error: Exception) -> None:
        """What a pass could not do ends all of its texts, and none after them."""
        self.counts.failures += 1
        refusal = Refusal(500, f"the model failed: {type(error).__name__}; the server's log says more")
        with self._turn:
            failed = list(self._running.values())
            self._running.clear()
            self.decoder.clear()
        self._tell([(ticket, refusal) for ticket in failed])

    def _publish(self, steps: list[tuple[Ticket, Step]]) -> None:
        events: list[tuple[Ticket, Step | Refusal]] = []
        for ticket, step in steps:
            self.counts.tokens += len(step.landed)
            if all(math.isfinite(landed.nats) for landed in step.landed):
                events.append((ticket, step))
            else:
                events.append((ticket, Refusal(500, "the model gave numbers that are not finite; its weights are bad")))
                ticket.given_up = not step.done
        with self._turn:
            for ticket, step in steps:
                if step.done:
                    del self._running[ticket.text]
        self._tell(events)

    def _tell(self, events: list[tuple[Ticket, Step | Refusal]]) -> None:
        """Once for all texts of a pass: to wake the loop costs more than to hand one over."""
        self._loop.call_soon_threadsafe(_hand_over, events)


def _hand_over(events: list[tuple[Ticket, Step | Refusal]]) -> None:
    for ticket, event in events:
        ticket.events.put_nowait((ticket.number, event))


def step_of(text: Text) -> Step:
    """What the latest pass has added."""
    landed = [
        Landed(place, int(text.tokens[place + 1]), float(text.logprobs[place + 1]), text.tops.get(place, ()))
        for place in text.placed()
    ]
    return Step(landed, text.final, text.end, text.done)
