"""Under muP the scale of both streams does not depend on the width, and under the standard parametrisation it does."""

import pytest
from coordinates import measure, slopes

QUICK = (64, 128, 256)
WIDE = (128, 256, 512, 1024)


def check(widths: tuple[int, ...], most: float) -> None:
    """most: the power of the width that still is flat."""
    mup, standard = (measure(kind, widths, 4, 4e-3, seeds=1) for kind in ("mup", "standard"))
    streams = [f"content {layers}" for layers in (0, 1)] + [f"query {layers}" for layers in range(5)]
    for of in ("scale", "change"):
        flat, steep = slopes(mup, of), slopes(standard, of)
        assert set(streams) < set(flat)
        for name in streams:
            assert abs(flat[name]) < most, (of, name, flat)
        # They fall as what random weights make of them does, and do not grow.
        assert all(-0.75 < flat[name] < 0.05 for name in flat if name.startswith(("scores", "logits"))), flat
        for name in streams[1:2] + streams[3:]:
            assert steep[name] > 1, (of, name, steep)
        assert all(steep[name] > 0.5 for name in steep if name.startswith(("scores", "logits"))), steep


def test_scale_is_flat_in_width_under_mup_alone() -> None:
    check(QUICK, 0.25)


@pytest.mark.grid
def test_scale_is_flat_up_to_1024() -> None:
    check(WIDE, 0.1)
