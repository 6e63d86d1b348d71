"""Test-time augmentation of dense tasks: a picture's answer from several views of it, mirrored and at other scales."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from retinue.backbones.backbone import Preprocessing
from retinue.datasets.targets import DataError, Pictures
from retinue.tasks.dense import DenseTask, resize
from retinue.tasks.task import Model


def dense_tasks(model: Model, asked: str) -> dict[str, DenseTask]:
    """The model's tasks by name. DataError, which says what was `asked`, where one does not answer at every pixel."""
    tasks = {name: task for name, task in model.named_tasks.items() if isinstance(task, DenseTask)}
    if others := sorted(model.named_tasks.keys() - tasks.keys()):
        raise DataError(
            f"{asked} is for tasks that answer at every pixel, and {', '.join(others)} does not: leave it out"
        )
    return tasks


def predict_augmented(
    model: Model, pictures: Pictures, flip: bool, scales: Sequence[float]
) -> dict[str, list[Any]]:
    """As `Model.predict`, from views of the canvas at these scales, with `flip` from their mirror images too.

    A picture's views are held together, so pictures are answered one by one. The caller switches gradients off.
    Raises DataError for a task that is not dense.
    """
    tasks = dense_tasks(model, "flip, scales")
    results: dict[str, list[Any]] = {name: [] for name in tasks}
    for i in range(len(pictures)):
        picture = pictures[i : i + 1]
        maps = averaged_maps(model, picture, flip, scales)
        for name, task in tasks.items():
            results[name] += task.answer(maps[name], picture)
    return results


def averaged_maps(
    model: Model, picture: Pictures, flip: bool = False, scales: Sequence[float] = (1.0,)
) -> dict[str, Tensor]:
    """By task, maps (1, channels, h, w) of a batch of one picture, of its own part (h, w) of the canvas.

    Where there is but one view, the maps are as they are; else they are what the task makes of all (`averaged`).
    """
    tasks = dense_tasks(model, "flip, scales")
    levels = {level for task in tasks.values() for level in task.levels}
    size, views = picture.sizes[0], {name: list[Tensor]() for name in tasks}
    for scale in scales:
        pixels, (h, w) = rescaled(picture.pixels, size, scale, model.backbone.preprocessing)
        for is_mirrored in (False, True) if flip else (False,):
            seen = mirrored(pixels, w, h) if is_mirrored else pixels
            features = model.backbone(seen, levels)
            for name, task in tasks.items():
                maps = task.maps(features, (pixels.shape[-2], pixels.shape[-1]))[..., :h, :w].float()
                views[name].append(resize(task.mirrored(maps) if is_mirrored else maps, size))
    return {
        name: task.averaged(views[name]) if len(views[name]) > 1 else views[name][0]
        for name, task in tasks.items()
    }


def rescaled(
    pixels: Tensor, size: tuple[int, int], scale: float, preprocessing: Preprocessing
) -> tuple[Tensor, tuple[int, int]]:
    """A canvas (1, c, H, W) with the picture in its first (h, w) pixels -> canvas and size, both times `scale`."""
    if scale == 1:
        return pixels, size
    h, w = (max(1, round(side * scale)) for side in size)
    divisor = preprocessing.divisor
    height, width = (
        -(-max(own, round(side * scale)) // divisor) * divisor for own, side in zip((h, w), pixels.shape[-2:])
    )
    canvas = pixels.new_empty(1, pixels.shape[1], height, width)
    canvas[:] = pixels.new_tensor(preprocessing.pad).view(-1, 1, 1)
    own = pixels[..., : size[0], : size[1]]
    canvas[..., :h, :w] = interpolate(own, (h, w), mode="bilinear", antialias=True)
    return canvas, (h, w)


def mirrored(pixels: Tensor, width: int, height: int) -> Tensor:
    """A canvas whose picture, its first (height, width) pixels, has left and right exchanged; it stays where it is."""
    pixels = pixels.clone()
    pixels[..., :height, :width] = pixels[..., :height, :width].flip(-1)
    return pixels
