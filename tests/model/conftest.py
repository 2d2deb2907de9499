"""What the tests of attention share."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn.attention import flex_attention as flex


@pytest.fixture
def differentiable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets FlexAttention's formula be differentiated on CPU, and forgets what it traced for other shapes."""
    torch._dynamo.reset()
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    yield
    torch._dynamo.reset()
