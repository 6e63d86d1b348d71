"""Parity with a reference network: the same weights, none at its initial value, give the same maps."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from retinue.backbones.backbone import Backbone

SIZES = ((1, 224, 224), (2, 193, 161))
"""Pictures, height, width."""
TOLERANCE = 1e-5
"""Largest difference allowed, in standard deviations of the reference's map."""


def fill_norm(module: nn.Module, generator: torch.Generator) -> None:
    if getattr(module, "weight", None) is not None:
        module.weight.uniform_(0.5, 1.5, generator=generator)
    if getattr(module, "bias", None) is not None:
        module.bias.normal_(0, 0.1, generator=generator)
    if getattr(module, "running_mean", None) is not None:
        module.running_mean.normal_(0, 0.1, generator=generator)
        module.running_var.uniform_(0.5, 2, generator=generator)


def fill(module: nn.Module, seed: int = 0) -> nn.Module:
    """Seeded random values into every parameter and every batch norm's statistics; returns the module."""
    generator = torch.Generator().manual_seed(seed)
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, norms):
                fill_norm(part, generator)
                continue
            for name, parameter in part.named_parameters(recurse=False):
                if name.endswith("bias"):
                    parameter.normal_(0, 0.05, generator=generator)
                elif isinstance(part, (nn.Conv2d, nn.Linear)):
                    fan_in = parameter[0].numel()
                    parameter.normal_(0, math.sqrt(2 / fan_in), generator=generator)
                else:  # layer scale and other free factors
                    parameter.uniform_(0.5, 1.5, generator=generator)
    return module


def difference(ours: Tensor, theirs: Tensor) -> float:
    """max |ours - theirs| in standard deviations of theirs, which must be a living map."""
    assert ours.shape == theirs.shape
    std = theirs.std().item()
    assert math.isfinite(std) and std > 0
    return (ours - theirs).abs().max().item() / std


def compare(ours: Backbone, theirs: nn.Module, nodes: dict[str, str]) -> None:
    """Assert that `ours` with the filled state of `theirs` gives its logits and its maps, at two sizes.

    `nodes`: our level -> the name of torchvision's feature-extraction node; every level but `image` is named.
    """
    assert set(nodes) == set(ours.levels) - {"image"}
    ours.load_state_dict(fill(theirs).state_dict())
    ours.eval(), theirs.eval()
    extractor = create_feature_extractor(theirs, {node: level for level, node in nodes.items()})
    for n, height, width in SIZES:
        picture = torch.rand(n, ours.in_channels, height, width, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            x = ours.normalise(picture)
            features, expected = ours(picture), extractor(x)
            logits = ours.top()(features)
            assert difference(logits, theirs(x)) <= TOLERANCE, (height, width)
        for level in nodes:
            assert difference(features[level], expected[level]) <= TOLERANCE, (level, height, width)


@pytest.fixture
def spread() -> Callable[..., nn.Module]:
    return fill


@pytest.fixture
def check_parity() -> Callable[..., None]:
    return compare
