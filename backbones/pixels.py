"""The picture itself as a backbone, by name: for networks without a trunk (DnCNN, FRRN)."""

from retinue.backbones.backbone import Pixels
from retinue.backbones.weights import load


def pixels(weights: str | None = None, *, in_channels: int = 3) -> Pixels:
    """One level, `image`, and nothing to learn; there are no weights to name."""
    return load(Pixels(in_channels), "pixels", weights, {"in_channels": in_channels})
