"""One of two processes: its share of a batch through DistributedDataParallel; rank 0 writes down the gradients.

python one_rank.py RANK STORE OUTPUT
"""

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from retinue.backbones.backbone import Pixels
from retinue.datasets.targets import ClassMap, Pictures
from retinue.tasks.classification import Classifier
from retinue.tasks.task import Model

SHARES = (slice(0, 3), slice(3, 4))
"""Uneven on purpose."""


def build() -> Model:
    """A tiny model whose classes weigh differently."""
    torch.manual_seed(0)
    backbone = Pixels()
    task = Classifier(backbone, ClassMap(("a", "b", "c")), class_weights=[1.0, 2.0, 5.0], label_smoothing=0.1)
    return Model(backbone, {"classification": task})


def batch(part: slice) -> tuple[Pictures, list[dict[str, torch.Tensor]]]:
    """A part of four pictures."""
    pixels = torch.rand(4, 3, 6, 5, generator=torch.Generator().manual_seed(1))[part]
    n = len(pixels)
    pictures = Pictures(
        pixels, [(6, 5)] * n, [(6, 5)] * n, torch.eye(2, 3).expand(n, 2, 3), [str(i) for i in range(n)]
    )
    return pictures, [{"label": torch.tensor(label)} for label in [0, 2, 1, 2][part]]


def gradients(model: Model) -> dict[str, torch.Tensor]:
    """By name."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


if __name__ == "__main__":
    rank, store, output = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = build()
    wrapped = DistributedDataParallel(model)
    sum(wrapped(*batch(SHARES[rank])).values()).backward()
    if rank == 0:
        torch.save(gradients(model), output)
    dist.destroy_process_group()
