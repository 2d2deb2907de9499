"""A long read says how far it is, once in a while, and shows the watch that it goes on."""

import pytest

from armd_dist.parallel.progress import here
from armd_dist.training import meter
from armd_dist.training.meter import Meter


def test_a_long_read_is_told_by_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 20.0, 25.0, 0.0, 20.0])
    monkeypatch.setattr(meter.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(meter, "Progress", Still)
    beats = here().beats
    with Meter("loading x", 4_000_000_000, shows=True) as told:
        for _ in range(3):
            told(1_000_000_000)
    assert capsys.readouterr().err == "loading x: 2.0 of 4.0 GB, 0.10 GB/s\n"
    assert here().beats == beats + 3
    with Meter("loading x", 4_000_000_000, shows=False) as told:
        told(1_000_000_000)
    assert capsys.readouterr().err == ""
    assert here().beats == beats + 4


class Still:
    """A bar that draws nothing, as where there is no terminal, and asks for no time."""

    def __init__(self, *_: object, disable: bool, **__: object) -> None:
        assert disable

    def __getattr__(self, _: str) -> object:
        return lambda *_, **__: 0
