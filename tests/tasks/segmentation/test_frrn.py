"""FRRN-A: table 1 to the letter, two streams that stay aligned at any size, and no trunk."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from retinue.backbones import build
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks import model_file
from retinue.tasks.segmentation.frrn import FRRN, FullResolutionResidualUnit, pooled_size
from retinue.tasks.task import Model

CITYSCAPES = ClassMap(tuple(f"class {i}" for i in range(19)))


def test_table_1() -> None:
    """Units with their channels and strides; 17.7 million parameters, as section 5 says of 19 classes."""
    with torch.device("meta"):
        task = FRRN(build("pixels"), CITYSCAPES).eval()
    assert round(sum(p.numel() for p in task.parameters()) / 1e6, 1) == 17.7
    seen = []

    def note(unit: Any, inputs: tuple[Tensor, Tensor], outputs: tuple[Tensor, Tensor]) -> None:
        y, z = outputs
        assert z.shape == (1, 32, 64, 96)
        seen.append((y.shape[1], 64 // y.shape[2], 96 // y.shape[3]))

    for module in task.modules():
        if isinstance(module, FullResolutionResidualUnit):
            module.register_forward_hook(note)
    (logits,) = task.logits({"image": torch.empty(1, 3, 64, 96, device="meta")})
    assert logits.shape == (1, 19, 64, 96)
    down = [(96, 2)] * 3 + [(192, 4)] * 4 + [(384, 8)] * 2 + [(384, 16)] * 2
    up = [(192, 8)] * 2 + [(192, 4)] * 2 + [(96, 2)] * 2
    assert seen == [(channels, stride, stride) for channels, stride in down + up]


def test_the_pooling_stream_s_size_counts_the_last_incomplete_cell() -> None:
    for size in ((32, 48), (33, 47), (5, 1)):
        z = torch.rand(1, 2, *size)
        assert pooled_size(z, 4) == max_pool2d(z, 4, ceil_mode=True).shape[-2:]


@torch.no_grad()
def test_a_unit_adds_to_the_residual_stream_what_it_finds_in_both() -> None:
    torch.manual_seed(0)
    unit = FullResolutionResidualUnit(4, 6, 3, 4).eval()
    y, z = torch.rand(2, 4, 3, 2), torch.rand(2, 3, 11, 7)
    after, residual = unit(y, z)
    assert after.shape == (2, 6, 3, 2) and residual.shape == z.shape
    cells = [(slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4)) for i in range(3) for j in range(2)]
    seen = torch.stack([z[:, :, rows, columns].amax((2, 3)) for rows, columns in cells], 2)
    expected = unit.mix(torch.cat([y, seen.view(2, 3, 3, 2)], 1))
    assert torch.equal(after, expected)
    torch.testing.assert_close((residual - z)[:, :, 9, 5], unit.residual(expected)[:, :, 2, 1])
    unit.residual.weight.zero_(), unit.residual.bias.zero_()
    assert torch.equal(unit(y, z)[1], z)


def test_a_backbone_with_weights_is_refused() -> None:
    assert FRRN.recipe(False)["backbone"] == FRRN.recipe(True)["backbone"] == "pixels"
    with pytest.raises(
        DataError, match=r"reads the picture itself, and nothing of resnet18: .* say backbone=pixels"
    ):
        FRRN.trunk_for(build("resnet18", classes=2), {})
    with pytest.raises(DataError, match="width=0, lanes=32: at least one channel each"):
        FRRN(build("pixels"), CITYSCAPES, width=0)


def test_a_saved_model_holds_the_network_alone(tmp_path: Path) -> None:
    backbone = FRRN.trunk_for(build("pixels", in_channels=1), {})
    model = Model(backbone, {"frrn": FRRN(backbone, CITYSCAPES, width=4, lanes=2)})
    model_file.save(model, tmp_path / "it.safetensors", imgsz=64)
    again, _ = model_file.load(tmp_path / "it.safetensors")
    assert all(key.startswith("tasks.frrn.") for key in again.state_dict())
    assert again.named_tasks["frrn"].settings["hard"] == 0.125
