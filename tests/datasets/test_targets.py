"""Batches: the canvas and its padding."""

import numpy as np
import pytest
import torch

from retinue.datasets.targets import Sample, collate


def samples(channels: int = 3) -> list[Sample]:
    return [
        Sample("a", np.full((2, 3, channels), 255, np.uint8)),
        Sample("b", np.full((4, 2, channels), 255, np.uint8)),
    ]


@pytest.mark.parametrize("pad", [0.25, (0.1, 0.2, 0.3), [0.1, 0.2, 0.3]])
def test_padding_is_one_value_or_one_a_channel(pad: float | list[float]) -> None:
    pictures, _ = collate(samples(), pad, divisor=4)
    expected = torch.tensor(pad).expand(3) if isinstance(pad, float) else torch.tensor(pad)
    assert pictures.pixels.shape == (2, 3, 4, 4) and pictures.sizes == [(2, 3), (4, 2)]
    for pixels, (h, w) in zip(pictures.pixels, pictures.sizes):
        assert (pixels[:, :h, :w] == 1).all()
        assert torch.equal(pixels[:, h:, :], expected.view(3, 1, 1).expand(3, 4 - h, 4))
        assert torch.equal(pixels[:, :, w:], expected.view(3, 1, 1).expand(3, 4, 4 - w))


def test_padding_for_other_channels_is_refused() -> None:
    with pytest.raises(RuntimeError):
        collate(samples(channels=1), (0.1, 0.2, 0.3))
