"""Training from scratch begins where torchvision's begins: every tensor has its mean and spread."""

import pytest
import torch
import torchvision.models

from retinue.backbones import build

NAMES = [
    "mobilenet_v2",
    "mobilenet_v3_small",
    "squeezenet1_1",
    "googlenet",
    "shufflenet_v2_x0_5",
    "efficientnet_b0",
    "convnext_tiny",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_drawn_as_torchvision_draws_it(name):
    torch.manual_seed(0)
    options = {"init_weights": True} if name == "googlenet" else {}
    theirs = getattr(torchvision.models, name)(**options).state_dict()
    for key, value in build(name).state_dict().items():
        value, expected = value.float(), theirs[key].float()
        spread = expected.std().item() if expected.numel() > 1 else 0.0
        # the error of a mean and of a standard deviation of n draws
        bound = 6 * spread / max(expected.numel(), 1) ** 0.5
        assert abs(value.mean() - expected.mean()) <= bound + 1e-7, key
        if expected.numel() > 1:
            assert abs(value.std() - spread) <= bound + 1e-7, key
