"""What every network of semantic segmentation does, whichever there are: sizes, independence, learning, precision."""

from typing import Any

import pytest
import torch
from canvases import pictures_of
from small_trunks import SmallTrunk
from torch import nn

from retinue.backbones import build
from retinue.backbones.backbone import is_norm
from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import ClassMap, DataError, Pictures, Target, collate
from retinue.tasks import find
from retinue.tasks.fused import fused_model
from retinue.tasks.segmentation.segmenter import Segmenter
from retinue.tasks.task import Model
from retinue.tools.loader import View

NETWORKS = [name for name in find.names() if issubclass(find.find(name), Segmenter)]
SMALL = {"width": 16, "widths": [16, 16, 8, 8], "lanes": 8, "depth": 2, "hard": 1.0, "dropout": 0.0}
SIDE = 64


def made(name: str, **more: Any) -> tuple[Model, Segmenter]:
    """The network on a small backbone, or the one that it asks for, with no weight at 0."""
    torch.manual_seed(0)
    kind: Any = find.find(name)
    settings = {key: value for key, value in SMALL.items() if key in find.settings_of(name)} | more
    trunk = build("pixels") if kind.recipe(False).get("backbone") == "pixels" else SmallTrunk()
    backbone = kind.trunk_for(trunk, settings)
    task = kind(backbone, Scenes.semantic_classes, **settings)
    for parameter in task.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, 0, 0.01)
    return Model(backbone, {"it": task}), task


def batch_of(task: Segmenter, count: int = 4) -> tuple[Pictures, list[Target]]:
    view = View(Scenes(count, SIDE), task.eval_transform(SIDE), task.needs)
    return collate([view[0, i] for i in range(count)], divisor=task.preprocessing.divisor)


def maps(model: Model, task: Segmenter, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return task.maps(model.backbone(images, task.levels), pictures_of(images))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_pixel_of_an_odd_canvas_is_answered(name: str) -> None:
    model, task = made(name)
    for size in ((75, 61), (33, 130)):
        answer = maps(model.eval(), task, torch.rand(1, 3, *size))
        assert answer.shape == (1, len(task.classes), *size) and answer.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_on_its_canvases_no_map_has_a_part_of_a_cell(name: str) -> None:
    model, task = made(name)
    divisor = task.preprocessing.divisor
    canvas = [-(-side // divisor) * divisor for side in (75, 61)]
    features = model.eval().backbone(torch.rand(1, 3, *canvas), task.levels)
    for each in (*(features[level] for level in task.levels), task.logits(features)[0]):
        assert canvas[0] % each.shape[2] == canvas[1] % each.shape[3] == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_auxiliary_weighs_what_is_there_or_is_refused(name: str) -> None:
    model, task = made(name)
    assert ("it/auxiliary" in model.train()(*batch_of(task, 2))) == task.helped
    if not task.helped:
        with pytest.raises(DataError, match=r"auxiliary=0\.5: this network has no further outputs"):
            made(name, auxiliary=0.5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_picture_in_a_batch_gives_what_it_gives_alone(name: str) -> None:
    model, task = made(name)
    images = torch.rand(3, 3, SIDE, SIDE + 32)
    together = maps(model.eval(), task, images)
    alone = torch.cat([maps(model, task, image[None]) for image in images])
    assert together.std() > 0 and (together - alone).abs().max() <= 1e-5 * together.std()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_few_steps_lower_the_loss_of_a_batch(name: str) -> None:
    model, task = made(name)
    pictures, targets = batch_of(task)
    optimizer = torch.optim.AdamW(model.train().parameters(), 0.003)
    values = []
    for _ in range(6):
        loss = torch.stack(list(model(pictures, targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert sum(values[-2:]) / 2 < values[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_it_trains_under_autocast_to_bfloat16(name: str) -> None:
    model, task = made(name)
    pictures, targets = batch_of(task, 2)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.train()(pictures, targets)
    torch.stack(list(losses.values())).sum().backward()
    gradients = [p.grad for p in task.parameters()]
    assert all(value.isfinite() for value in losses.values())
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_made_ready_for_prediction_it_answers_the_same(name: str, dtype: torch.dtype) -> None:
    model, task = made(name)
    pictures, targets = batch_of(task)
    for module in model.modules():
        if is_norm(module):
            module.momentum = None  # one pass gives the statistics
    with torch.no_grad():
        model.train()(pictures, targets)
    fast = fused_model(model.eval(), dtype)
    other: Any = fast.named_tasks["it"]
    with torch.inference_mode():
        one = maps(model, task, pictures.pixels)
        two = other.maps(fast.backbone(pictures.pixels, other.levels), pictures)
    difference = (one - two).abs() / one.std()
    if dtype == torch.float32:
        assert difference.max() <= 1e-3
    else:
        assert difference.mean() <= 0.3  # random networks amplify any rounding


@pytest.mark.parametrize("name", NETWORKS)
def test_other_classes_get_new_last_layers(name: str) -> None:
    model, task = made(name)
    task.classes = ClassMap(("a", "b"))
    task.forget_classes()
    pictures, targets = batch_of(task, 2)
    for target in targets:
        target["semantic"].clamp_(max=1)
    assert maps(model.eval(), task, pictures.pixels).shape[1] == 2
    losses = model.train()(pictures, targets)
    assert all(value.isfinite() for value in losses.values())
