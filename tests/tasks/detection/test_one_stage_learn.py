"""One-stage detectors learn a few scenes by heart."""

from typing import Any

import pytest
import torch
from detectors import small

from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import collate
from retinue.tasks.detection.detector import Detector
from retinue.tasks.detection.fcos import FCOS
from retinue.tasks.detection.retinanet import RetinaNet
from retinue.tasks.detection.ssd import SSD
from retinue.tasks.detection.ssdlite import SSDLite
from retinue.tools.loader import View


def ap50(task: Any, model: Any, pictures: Any, targets: Any) -> float:
    metric = task.metric()
    metric.update(pictures.ids, model.eval().predict(pictures)["it"], targets)
    return metric.compute()["box/AP50"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [RetinaNet, FCOS, SSD, SSDLite])
def test_they_learn_a_few_scenes_by_heart(kind: type[Detector]) -> None:
    scenes = Scenes(3, 128)
    model = small(kind, Scenes.classes, pyramid_channels=32, tower_depth=1, candidates=300)
    task = model.named_tasks["it"]
    view = View(scenes, task.eval_transform(128), task.target_keys())
    pictures, targets = collate([view[0, i] for i in range(3)], divisor=32)
    before = ap50(task, model, pictures, targets)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack(list(model.train()(pictures, targets).values())).sum().backward()
        optimizer.step()
    after = ap50(task, model, pictures, targets)
    assert before < 0.2 and after > 0.7, (before, after)
