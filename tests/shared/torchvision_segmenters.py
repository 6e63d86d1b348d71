"""torchvision's segmenters with random weights whose answers say something: logits with a deviation of `SPREAD`."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import segmentation

SPREAD = 3.0


def blots(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Pictures (count, 3, height, width) in [0, 1]: blurred blots of colour with noise."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, height // 12 + 1, width // 12 + 1, generator=generator)
    large = nn.functional.interpolate(small, (height, width), mode="bilinear")
    return 0.8 * large + 0.2 * torch.rand(large.shape, generator=generator)


def segmenter(name: str, classes: int = 21, auxiliary: bool = True) -> nn.Module:
    """A network in evaluation mode: batch norms have the statistics of what they see, last layers a spread."""
    torch.manual_seed(0)
    options: dict[str, Any] = {} if name.startswith("lraspp") else {"aux_loss": auxiliary}
    network = getattr(segmentation, name)(
        weights=None, weights_backbone=None, num_classes=classes, **options
    ).eval()
    last = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.out_channels == classes]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.7, 1.3)
        nn.init.normal_(norm.bias, 0, 0.2)
    hooks = [norm.register_forward_pre_hook(_measure) for norm in norms]
    hooks += [layer.register_forward_hook(_spread) for layer in last]
    with torch.no_grad():
        network(normalised(blots(1, 192, 256, seed=9)))
    for hook in hooks:
        hook.remove()
    return network


def normalised(images: Tensor) -> Tensor:
    """As torchvision's preset does it."""
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    return (images - mean) / std


def _measure(norm: Any, inputs: tuple[Tensor, ...]) -> None:
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    if inputs[0][0, 0].numel() > 1:  # means of whole pictures hardly differ among so few
        variance = inputs[0].var((0, 2, 3))
        norm.running_var.copy_(variance.clamp(min=0.1 * float(variance.mean())))


def _spread(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    factor = SPREAD / output.std((0, 2, 3), keepdim=True)
    layer.weight.mul_(factor.view(-1, 1, 1, 1))
    layer.bias.mul_(factor.flatten())
    return output * factor
