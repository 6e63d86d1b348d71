"""Tasks that answer at every pixel.

A dense task makes `maps` of a padded canvas. From there on all of them go the same way: each picture's own part of the
canvas is brought to the file's frame and its answer taken, a stripe of rows at a time, so that a large picture never
has all of its channels at full size in memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from retinue.backbones.backbone import Backbone, Features, Preprocessing
from retinue.datasets.targets import DataError, Pictures, Transform
from retinue.datasets.transforms import Compose, RandomCrop, RandomResize, Resize
from retinue.tasks.dense import resize
from retinue.tasks.recipe import check_recipe, looks
from retinue.tasks.task import Task

STRIPE = 2**22
"""Numbers of maps in the file's frame that are held at a time: 16 MB."""


class DenseTask(Task, ABC):
    """A head with an answer at every pixel: labels, depth, normals, a restored picture.

    scales: range of the shorter side in training, as shares of `imgsz`; crop: side of the square that is then cut out,
    by default `imgsz`. flip: mirror half of the training pictures. colour: strength of the jitter of brightness,
    contrast and saturation, 0 for none. Evaluation sees whole pictures with a shorter side of `imgsz`.

    A subclass gives `maps`, `answer_at` and `result`; where maps of a mirrored picture, or several maps of one picture,
    need more than a flip and a mean, it overrides `mirrored` and `averaged`. Its result's `files` are given the
    picture, for what shows or completes it (a coloured point cloud, transparency that is kept).
    """

    inner_stride: int = 1
    """The stride of the coarsest map that the task makes itself, where it is coarser than the levels that it reads."""
    one_size: bool = False
    """Whether it reads canvases of one size alone, by fully connected layers: neither tiles nor other scales."""
    preprocessing: Preprocessing

    def __init__(
        self,
        backbone: Backbone,
        *,
        scales: tuple[float, float] = (0.5, 2.0),
        crop: int | None = None,
        flip: bool = True,
        colour: float = 0.2,
    ) -> None:
        super().__init__()
        backbone.chop()
        self.preprocessing = backbone.preprocessing
        self.settings = {"scales": list(scales), "crop": crop, "flip": flip, "colour": colour}
        check_recipe(self.settings)
        if crop is not None and crop < 1:
            raise DataError(f"crop={crop}: a side in pixels, at least 1")

    @abstractmethod
    def maps(self, features: Features, pictures: Pictures) -> Tensor:
        """Raw maps (n, channels, H, W) on the pictures' canvas of H x W, from the backbone's maps of it.

        What the task is given beside the pictures (`inputs`: a sigma, a hole) lies on that canvas too.
        """

    @abstractmethod
    def answer_at(self, maps: Tensor) -> dict[str, Tensor]:
        """Raw maps (n, channels, h, w) -> named values of every pixel, (n, h, w) or (n, c, h, w)."""

    @abstractmethod
    def result(self, id: str, values: dict[str, np.ndarray], inputs: Mapping[str, Tensor]) -> Any:
        """The `Result` of a picture from `answer_at`'s values, (h, w) or (c, h, w) in the file's frame.

        inputs: of what the task was given beside the picture, that which is no map (`numbers_in_file`): intrinsics.
        """

    def mirrored(self, maps: Tensor) -> Tensor:
        """Maps of pictures -> those of the same pictures with left and right exchanged; it undoes itself."""
        return maps.flip(-1)

    def averaged(self, maps: Sequence[Tensor]) -> Tensor:
        """Several maps of the same pictures, from other scales and mirrored, as one."""
        return torch.stack(list(maps)).mean(0)

    def predict(self, features: Features, pictures: Pictures) -> list[Any]:
        """A result a picture, in the file's own pixels."""
        return self.answer(self.finite_maps(features, pictures), pictures)

    def finite_maps(self, features: Features, pictures: Pictures) -> Tensor:
        """`maps` in float32. DataError where one is not finite: it would pass for an answer."""
        maps = self.maps(features, pictures).float()
        if not maps.sum().isfinite():
            raise DataError("the answer is not finite: look for non-finite weights, or predict in float32")
        return maps

    def answer(self, maps: Tensor, pictures: Pictures) -> list[Any]:
        """The results of raw maps (n, channels, H, W) on the canvas of the pictures."""
        results = []
        for i, (id, (h, w)) in enumerate(zip(pictures.ids, pictures.sizes)):
            to_file = pictures.to_file[i]
            stripes = in_file_frame(maps[i : i + 1, :, :h, :w], to_file, pictures.file_sizes[i])
            parts = [self.answer_at(stripe) for stripe in stripes]
            values = {
                name: np.concatenate([part[name][0].cpu().numpy() for part in parts], axis=-2)
                for name in parts[0]
            }
            inputs = {name: given[i] for name, given in pictures.inputs.items()}
            results.append(self.result(id, values, numbers_in_file(inputs, to_file)))
        return results

    def train_transform(self, side: int) -> Transform:
        """A random scale, a random square of it, mirrored, perhaps in other colours."""
        low, high = (round(side * scale) for scale in self.settings["scales"])
        pad = self.preprocessing.pad
        crop = RandomCrop(self.settings["crop"] or side, pad=sum(pad) / len(pad))
        return Compose([RandomResize(low, high), crop, *looks(self.settings, self.preprocessing)])

    def eval_transform(self, side: int) -> Transform:
        """The whole picture with a shorter side of `side`."""
        return Resize(side)


def canvas_of(pictures: Pictures) -> tuple[int, int]:
    """(height, width) of the canvas."""
    return pictures.pixels.shape[-2], pictures.pixels.shape[-1]


def numbers_in_file(inputs: Mapping[str, Tensor], to_file: Tensor) -> dict[str, Tensor]:
    """Of what is given beside one picture, that which is no map: as it is, intrinsics (3, 3) in the file's frame.

    to_file: (2, 3) float64, affine from the frame of the inputs to the file's.
    """
    numbers = {name: value for name, value in inputs.items() if value.ndim < 3}
    if "intrinsics" in numbers:
        numbers["intrinsics"] = move_intrinsics(numbers["intrinsics"], to_file)
    return numbers


def move_intrinsics(k: Tensor, matrix: Tensor) -> Tensor:
    """A camera's matrix (3, 3) after its pixels moved by `matrix` (2, 3), float64."""
    moved = matrix.to(k.device) @ k.double()
    return torch.cat([moved, k[2:].double()]).to(k.dtype)


def in_file_frame(maps: Tensor, to_file: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """Maps (1, c, h, w) of a picture as the network saw it, in stripes of rows (1, c, rows, W) of its file's frame.

    to_file: (2, 3) float64, affine from the maps' pixels to the file's; size: the file's (height, width) H, W. Values
    are interpolated bilinearly, in float32; beyond the maps' edge their border's value goes on.
    """
    height, width = size
    if torch.equal(to_file, torch.eye(2, 3, dtype=to_file.dtype)) and maps.shape[-2:] == size:
        yield maps.float()
        return
    back = torch.linalg.inv(torch.cat([to_file.double(), torch.tensor([[0.0, 0.0, 1.0]]).double()]))[:2]
    whole_rows = torch.tensor([maps.shape[-1] / width, 0, 0], dtype=torch.float64)
    stretched = torch.allclose(back[0], whole_rows, rtol=0, atol=1e-9) and back[1, 0] == 0
    source, rows_at_once = maps.float(), max(1, STRIPE // (maps.shape[1] * width))
    for top in range(0, height, rows_at_once):
        rows = torch.arange(top, min(top + rows_at_once, height), dtype=torch.float64) + 0.5
        yield (
            _stretch(source, rows * back[1, 1] + back[1, 2], width)
            if stretched
            else _warp(source, back, rows, width)
        )


def _stretch(source: Tensor, rows: Tensor, width: int) -> Tensor:
    """Maps (1, c, h, w) of a picture that was only resized: its rows at heights (n,) in their frame -> (1, c, n, W).

    Four times as fast as `_warp`, and channels last, in which the largest channel is found four times as fast.
    """
    at = (rows - 0.5).clamp(0, source.shape[2] - 1)
    above = at.long()
    below = (above + 1).clamp(max=source.shape[2] - 1)
    pixels, share = source.permute(0, 2, 3, 1), (at - above)[:, None, None]
    above, below, share = above.to(source.device), below.to(source.device), share.to(source)
    between = torch.lerp(pixels.index_select(1, above), pixels.index_select(1, below), share)
    return resize(between.permute(0, 3, 1, 2), (len(rows), width))


def _warp(source: Tensor, back: Tensor, rows: Tensor, width: int) -> Tensor:
    """Any affine map: maps (1, c, h, w) at rows (n,) of the file's frame, from which `back` (2, 3) leads to theirs."""
    # grid_sample's frame: -1 and 1 are the outer edges of the first and the last pixel.
    scale = 2 / torch.tensor([source.shape[-1], source.shape[-2]], dtype=torch.float64)
    linear, shift = scale[:, None] * back[:, :2], scale * back[:, 2] - 1
    columns = torch.arange(width, dtype=torch.float64) + 0.5
    grid = linear[:, 0] * columns[None, :, None] + linear[:, 1] * rows[:, None, None] + shift
    return grid_sample(source, grid[None].to(source), "bilinear", "border", align_corners=False)
