"""`retinue bench segmentation`: fcn_resnet50 against torchvision's, with the same random weights, taking turns.

From a picture of 520 x 520 to the labels of its pixels. torchvision's published networks evaluate the auxiliary head,
too, which serves training only; they are timed with and without it.
"""

import statistics
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import segmentation
from torchvision.transforms.functional import normalize

from retinue.datasets.targets import collate
from retinue.tasks.fused import fused_model
from retinue.tasks.segmentation import published
from retinue.tools.bench_detection import PRECISIONS, as_they_take_it, picture, timed
from retinue.tools.options import Bench
from retinue.tools.take_turns import ratio, take_turns

NAME = "fcn_resnet50"
SIZE = (520, 520)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def theirs(auxiliary: bool) -> nn.Module:
    """torchvision's network as it is built for its weights, perhaps without the auxiliary head."""
    torch.manual_seed(0)
    network = getattr(segmentation, NAME)(weights=None, weights_backbone=None, aux_loss=True)
    if not auxiliary:
        network.aux_classifier = None
    return network.eval()


def their_labels(network: nn.Module, image: Tensor) -> Tensor:
    """Classes (1, h, w) of a picture (3, h, w) in [0, 1]."""
    return network(normalize(image[None], MEAN, STD))["out"].argmax(1)


def bench_segmentation(options: Bench) -> Iterator[dict[str, float]]:
    """How many times as fast as torchvision in fp32: ours fused, in fp32 and in bf16."""
    whole, lean = theirs(auxiliary=True), theirs(auxiliary=False)
    model = published.construct(NAME)
    published.insert(model, whole.state_dict(), NAME)
    image = as_they_take_it(picture(SIZE)).contiguous()  # as torchvision reads a picture
    pictures, _ = collate([picture(SIZE)], MEAN)
    pictures = pictures.to("cpu", torch.channels_last)
    work: dict[str, Callable[[], object]] = {
        "whole": partial(their_labels, whole, image),
        "lean": partial(their_labels, lean, image),
    }
    for precision, dtype in PRECISIONS.items():
        work[precision] = partial(fused_model(model.eval(), dtype).predict, pictures)
    with torch.inference_mode():
        times = take_turns({name: partial(timed, call) for name, call in work.items()}, options.seconds)
    yield {"fcn/torchvision_seconds": statistics.median(times["whole"])} | {
        f"fcn/{ours}_over_torchvision_{name}": ratio(times, base, ours)
        for base, name in (("whole", "fp32"), ("lean", "fp32_no_auxiliary"))
        for ours in PRECISIONS
    }
