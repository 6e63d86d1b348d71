"""Test-time augmentation of dense tasks: a picture's answer from several views of it, mirrored and at other scales."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from retinue.backbones.backbone import Backbone, Preprocessing
from retinue.datasets.targets import DataError, Pictures
from retinue.tasks.dense import resize
from retinue.tasks.dense_task import DenseTask, move_intrinsics
from retinue.tasks.task import Model


def dense_tasks(model: Model, asked: str, resized: bool = False) -> dict[str, DenseTask]:
    """The model's tasks by name. DataError, which says what was `asked`, where one does not answer at every pixel.

    resized: what is asked changes the canvas, which a task of `one_size` refuses.
    """
    tasks = {name: task for name, task in model.named_tasks.items() if isinstance(task, DenseTask)}
    if others := sorted(model.named_tasks.keys() - tasks.keys()):
        raise DataError(
            f"{asked} is for tasks that answer at every pixel, and {', '.join(others)} does not: leave it out"
        )
    if rigid := sorted(name for name, task in tasks.items() if task.one_size and resized):
        raise DataError(
            f"{asked} changes what the network is given, and {', '.join(rigid)} reads one size alone: leave it out"
        )
    return tasks


def predict_augmented(
    model: Model, pictures: Pictures, flip: bool, scales: Sequence[float]
) -> dict[str, list[Any]]:
    """As `Model.predict`, from views of the canvas at these scales, with `flip` from their mirror images too.

    A picture's views are held together, so pictures are answered one by one. The caller switches gradients off.
    Raises DataError for a task that is not dense, and, of scales, for one that reads one size alone.
    """
    tasks = dense_tasks(model, "flip, scales", resized=any(scale != 1 for scale in scales))
    results: dict[str, list[Any]] = {name: [] for name in tasks}
    for i in range(len(pictures)):
        picture = pictures[i : i + 1]
        maps = averaged_maps(model.backbone, tasks, picture, flip, scales)
        for name, task in tasks.items():
            results[name] += task.answer(maps[name], picture)
    return results


def averaged_maps(
    backbone: Backbone,
    tasks: Mapping[str, DenseTask],
    picture: Pictures,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
) -> dict[str, Tensor]:
    """By task, maps (1, channels, h, w) of a batch of one picture, of its own part (h, w) of the canvas.

    Where there is but one view, the maps are as they are; else they are what the task makes of all (`averaged`).
    """
    levels = {level for task in tasks.values() for level in task.levels}
    size, views = picture.sizes[0], {name: list[Tensor]() for name in tasks}
    for scale in scales:
        scaled = rescaled(picture, scale, backbone.preprocessing)
        h, w = scaled.sizes[0]
        for is_mirrored in (False, True) if flip else (False,):
            seen = mirrored(scaled) if is_mirrored else scaled
            features = backbone(seen.pixels, levels)
            for name, task in tasks.items():
                maps = task.finite_maps(features, seen)[..., :h, :w]
                views[name].append(resize(task.mirrored(maps) if is_mirrored else maps, size))
    return {
        name: task.averaged(views[name]) if len(views[name]) > 1 else views[name][0]
        for name, task in tasks.items()
    }


def rescaled(picture: Pictures, scale: float, preprocessing: Preprocessing) -> Pictures:
    """A batch of one picture times `scale`: its canvas, its own part of it, and what is given beside it.

    `to_file` still is the unscaled picture's: what becomes of the views leads back to that first.
    """
    if scale == 1:
        return picture
    pixels, size = picture.pixels, picture.sizes[0]
    h, w = (max(1, round(side * scale)) for side in size)
    divisor = preprocessing.divisor
    height, width = (
        -(-max(own, round(side * scale)) // divisor) * divisor for own, side in zip((h, w), pixels.shape[-2:])
    )
    canvas = pixels.new_empty(1, pixels.shape[1], height, width)
    canvas[:] = pixels.new_tensor(preprocessing.pad).view(-1, 1, 1)
    own = pixels[..., : size[0], : size[1]]
    canvas[..., :h, :w] = interpolate(own, (h, w), mode="bilinear", antialias=True)
    matrix = torch.tensor([[w / size[1], 0, 0], [0, h / size[0], 0]], dtype=torch.float64)
    inputs = _moved(
        picture.inputs, matrix, lambda x: resize(x[None].float(), (h, w), "nearest")[0].to(x.dtype)
    )
    return replace(picture, pixels=canvas, sizes=[(h, w)], inputs=inputs)


def mirrored(picture: Pictures) -> Pictures:
    """A batch of one picture with left and right exchanged; it stays where it is on its canvas."""
    height, width = picture.sizes[0]
    pixels = picture.pixels.clone()
    pixels[..., :height, :width] = pixels[..., :height, :width].flip(-1)
    matrix = torch.tensor([[-1.0, 0, width], [0, 1, 0]], dtype=torch.float64)
    return replace(picture, pixels=pixels, inputs=_moved(picture.inputs, matrix, lambda x: x.flip(-1)))


def _moved(
    inputs: Mapping[str, list[Tensor]], matrix: Tensor, move: Callable[[Tensor], Tensor]
) -> dict[str, list[Tensor]]:
    """What is given beside a picture, moved with it: maps (c, h, w) by `move`, intrinsics by `matrix` (2, 3)."""
    moved = {name: [move(x) if x.ndim == 3 else x for x in given] for name, given in inputs.items()}
    if "intrinsics" in moved:
        # Seen in a mirror the world is mirrored too: the camera keeps its positive focal length.
        world = torch.tensor([1.0 if matrix[0, 0] > 0 else -1.0, 1, 1])
        moved["intrinsics"] = [move_intrinsics(k, matrix) * world.to(k) for k in moved["intrinsics"]]
    return moved
