"""What every task must do: every module below `retinue.tasks` that holds one is found and tried on rendered scenes."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from retinue.backbones import build
from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import KEYS, DataError, Sample, collate
from retinue.tasks import find, model_file
from retinue.tasks.augmented import predict_augmented
from retinue.tasks.dense_task import DenseTask
from retinue.tasks.task import Model, Task
from retinue.tasks.tiling import predict_tiled
from retinue.tools.loader import View
from retinue.tools.options import Train

SIDE = 64
TASKS = find.names()


SMALL = {
    "pyramid_channels": 16, "sampled": 16, "proposals": (60, 20), "mask_width": 8, "keypoint_width": 8,
    "keypoint_depth": 2, "width": 16, "zooms": (1.0, 0.5), "candidates": 40,
    "region_side": 32, "context": 3,
}  # fmt: skip
"""Settings that make a task quick, for those that have them."""


class Furnished(Scenes):
    """Scenes whose objects have keypoints, their boxes' corners and centres, and whose pictures come with proposals."""

    keys = Scenes.keys | {"keypoints"}
    classes = replace(Scenes.classes, keypoints={"names": ["a", "b", "c"], "pairs": [], "sigmas": [0.1] * 3})

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        boxes = sample.targets["boxes"]
        points = np.stack([boxes[:, :2], boxes[:, 2:], (boxes[:, :2] + boxes[:, 2:]) / 2], 1)
        keypoints = np.concatenate([points, np.full_like(points[..., :1], 2)], 2).astype(np.float32)
        return sample.with_(
            targets={**sample.targets, "keypoints": keypoints}, inputs={"proposals": boxes + 1}
        )


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Furnished(6, SIDE)


def make(name: str, scenes: Scenes) -> tuple[Model, Task]:
    torch.manual_seed(0)
    settings = {key: value for key, value in SMALL.items() if key in find.settings_of(name)}
    kind = find.find(name)
    backbone = kind.trunk_for(build(kind.recipe(False).get("backbone", "resnet18")), settings)
    task = kind(backbone, kind.classes_of(scenes), **settings)  # type: ignore[call-arg]
    return Model(backbone, {"it": task}), task


@pytest.mark.parametrize("name", TASKS)
def test_it_says_what_it_needs(name: str) -> None:
    kind = find.find(name)
    assert kind.needs and kind.needs <= KEYS.keys() and kind.uses <= KEYS.keys() - kind.needs
    assert kind.headline and kind.__doc__
    assert find.name_of(kind) == name
    assert find.find(name.rpartition(".")[2]) is kind


@pytest.mark.parametrize("name", TASKS)
def test_two_steps_of_descent_on_scenes(name: str, scenes: Scenes) -> None:
    model, task = make(name, scenes)
    view = View(scenes, task.train_transform(SIDE), task.needs, inputs=task.inputs)
    pictures, targets = collate([view[0, i] for i in range(6)])
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    model.train()
    for _ in range(2):
        losses = model(pictures, targets)
        assert all(
            key.startswith("it/") and value.ndim == 0 and value.isfinite() for key, value in losses.items()
        )
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    assert all(p.grad is not None for p in task.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", TASKS)
def test_results_are_judged_drawn_and_plain(name: str, scenes: Scenes, tmp_path: Path) -> None:
    model, task = make(name, scenes)
    view = View(scenes, task.eval_transform(SIDE), task.needs, file_frame=True)
    pictures, targets = collate([view[0, i] for i in range(6)])
    results = model.eval().predict(pictures)["it"]
    assert len(results) == 6
    for result, sample in zip(results, scenes):
        json.loads(json.dumps(result.to_json(), allow_nan=False))
        before = sample.image.copy()
        drawn = result.draw(sample.image)
        assert drawn.dtype == np.uint8 and (sample.image == before).all()
        assert drawn.shape[0] == before.shape[0] and drawn.shape[1] >= before.shape[1]  # with its legend
        assert str(result) and "\n" not in str(result)
    whole, parts = task.metric(), [task.metric(), task.metric()]
    whole.update(pictures.ids, results, targets)
    for part, at in zip(parts, (slice(0, 2), slice(2, 6))):
        part.update(pictures.ids[at], results[at], targets[at])
    parts[1].merge(parts[0])
    values = whole.compute()
    assert next(iter(values)) == task.headline and values[task.headline] >= 0
    np.testing.assert_equal(parts[1].compute(), values)
    np.testing.assert_equal(set(task.metric().compute()), set(values))
    sheet = task.draw_batch(pictures, targets, results)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    for file, draw in task.plots(whole).items():
        draw(str(tmp_path / file))
        assert (tmp_path / file).stat().st_size > 0


@pytest.mark.parametrize("name", TASKS)
def test_a_saved_model_is_the_same_model(name: str, scenes: Scenes, tmp_path: Path) -> None:
    model, task = make(name, scenes)
    model_file.save(model.eval(), tmp_path / "it.safetensors", imgsz=SIDE)
    again, header = model_file.load(tmp_path / "it.safetensors")
    assert header["imgsz"] == SIDE and json.dumps(header, allow_nan=False)
    assert again.named_tasks["it"].settings == json.loads(json.dumps(task.settings))
    assert again.named_tasks["it"].classes == task.classes
    view = View(scenes, task.eval_transform(SIDE), task.needs)
    pictures, _ = collate([view[0, i] for i in range(2)])
    one, two = (m.predict(pictures)["it"] for m in (model, again))
    assert [r.to_json() for r in one] == [r.to_json() for r in two]


def test_names_that_are_none_are_named() -> None:
    with pytest.raises(DataError, match="did you mean classification"):
        find.find("clasification")
    with pytest.raises(DataError, match="no task 'losses'"):
        find.find("losses")


@pytest.mark.parametrize("name", [name for name in TASKS if issubclass(find.find(name), DenseTask)])
def test_a_dense_task_is_asked_from_views_and_by_tiles(name: str, scenes: Scenes) -> None:
    model, _ = make(name, scenes)
    model.eval()
    image = scenes[0].image
    preparation = model.backbone.preprocessing
    there, back = (
        collate([Sample("x", part.copy())], preparation.pad, preparation.divisor)[0]
        for part in (image, image[:, ::-1])
    )
    with torch.inference_mode():
        (plain,) = model.predict(there)["it"]
        whole = predict_tiled(model, Sample("x", image), 2 * SIDE, 0)["it"]
        assert np.array_equal(whole.draw(image), plain.draw(image))
        (one,), (other,) = (predict_augmented(model, part, True, (1.0,))["it"] for part in (there, back))
        assert one.to_json() == other.to_json()
        large = np.tile(image, (2, 3, 1))
        assert predict_tiled(model, Sample("x", large), SIDE, 0)["it"].draw(large).shape[0] == len(large)


@pytest.mark.parametrize("name", TASKS)
def test_no_setting_has_the_name_of_an_option_of_training(name: str) -> None:
    """It could not be told which of the two is meant."""
    assert not find.settings_of(name).keys() & {field.name for field in fields(Train)}
