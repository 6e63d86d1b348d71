"""A classifier as a sliding window: its fully connected layers are convolutions, and a larger picture gives a map.

Long, Shelhamer & Darrell 2015 (arXiv:1411.4038), section 3.1 and figure 2; Sermanet et al. 2013 (arXiv:1312.6229),
section 3.5. One pass gives what the classifier would say of every crop of the side that it was trained on, at the
stride of its map: exactly, where the trunk has no padding; where it has, a crop's own borders are zeros, and in the
larger picture its neighbours are seen in their place.
"""

import difflib

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from retinue.backbones.backbone import Backbone, Features
from retinue.datasets.targets import ClassMap, DataError, Pictures, Transform
from retinue.datasets.transforms import Resize
from retinue.tasks.classification.classification import Classifier
from retinue.tasks.segmentation.heat_map import HeatMap
from retinue.tasks.sliding import as_sliding, fuse_sliding
from retinue.tasks.task import Model, Task

ZOOM = 3
"""The shorter side of a picture, in windows, under `with_heat_maps`."""


def heat_map(model: Model, pixels: Tensor, side: int | None = None) -> Tensor:
    """Logits (n, classes, h, w) of a classifier's windows over pictures (n, channels, H, W), RGB in [0, 1].

    The window (i, j) is the square of `side` pixels, the side of the classifier's training pictures (default: that of
    the published weights), whose top left corner is at (i, j) times the stride of the classifier's map. Pictures of
    exactly that side give a 1x1 map, the classifier's own logits. The caller puts the model in evaluation mode.
    Raises DataError for a model without a classifier, and one that cannot slide (`as_sliding`).
    """
    backbone, top = model.backbone, _classifier(model, "a heat map").top
    layers = as_sliding(backbone, top, side or backbone.preprocessing.crop)
    return layers(backbone(pixels, (top.level,))[top.level])


def with_heat_maps(model: Model, asked: str, side: int) -> Model:
    """The model of a classifier, made to predict a `HeatMap` of pictures instead; it is used up.

    asked: a class's name or index, or "top", for each picture the one that is most probable of it as a whole: with a
    shorter side of one window, on average (Simonyan & Zisserman 2014, arXiv:1409.1556, section 3.2). side: of the
    classifier's training pictures. For the map, pictures are brought to a shorter side of `ZOOM` windows.
    Raises DataError as `heat_map`, and for an unknown class.
    """
    task = _classifier(model, f"heatmap={asked}")
    return Model(model.backbone, {"heat_map": _HeatMaps(model.backbone, task, _index(task, asked), side)})


class _HeatMaps(Task):
    """Where a classifier sees a class; for prediction only, and never saved."""

    classes: ClassMap

    def __init__(self, backbone: Backbone, task: Classifier, index: int | None, side: int) -> None:
        super().__init__()
        self.classes, self.settings, self.levels = task.classes, {}, (task.top.level,)
        self.layers = as_sliding(backbone, task.top, side)
        self.index, self.side, self.stride = index, side, backbone.levels[task.top.level].stride
        self.antialias = backbone.preprocessing.antialias

    def attach(self, backbone: Backbone) -> None:
        """As in `Task`: "top" looks at the whole picture too."""
        self.attached = (backbone,)

    def fuse(self, dtype: torch.dtype) -> None:
        """As in `Task`; logits are computed in float32."""
        self.layers = fuse_sliding(self.layers, dtype)

    def eval_transform(self, side: int) -> Transform:
        """A shorter side of `ZOOM` windows."""
        return Resize(ZOOM * self.side, antialias=self.antialias)

    def predict(self, features: Features, pictures: Pictures) -> list[HeatMap]:
        """The class's probability in those windows that lie within each picture."""
        maps = self._probabilities(features)
        results = []
        for i, (id, (h, w)) in enumerate(zip(pictures.ids, pictures.sizes)):
            rows, columns = (max(1, (length - self.side) // self.stride + 1) for length in (h, w))
            index = self._top(pictures.pixels[i : i + 1, :, :h, :w]) if self.index is None else self.index
            # The scale that brought the picture to the network places the windows in its file.
            (dx, _, x), (_, dy, y) = pictures.to_file[i].tolist()
            grid = (x + dx * self.side / 2, y + dy * self.side / 2, dx * self.stride, dy * self.stride)
            window = (dx * self.side, dy * self.side)
            windows = maps[i, index, :rows, :columns].cpu().numpy()
            results.append(HeatMap(id, self.classes.names[index], windows, grid, window))
        return results

    def _probabilities(self, features: Features) -> Tensor:
        return self.layers(features[self.levels[0]]).float().softmax(1)

    def _top(self, pixels: Tensor) -> int:
        """The class of a picture (1, channels, h, w) that was made `ZOOM` windows high or wide."""
        size = [max(self.side, round(length / ZOOM)) for length in pixels.shape[-2:]]
        whole = interpolate(pixels, size, mode="bilinear", antialias=self.antialias)
        return int(self._probabilities(self.attached[0](whole, self.levels)).mean((0, 2, 3)).argmax())


def _classifier(model: Model, asked: str) -> Classifier:
    tasks = list(model.named_tasks.values())
    if len(tasks) != 1 or not isinstance(tasks[0], Classifier):
        raise DataError(
            f"{asked} is for a classifier alone; this model answers {', '.join(model.named_tasks)}"
        )
    return tasks[0]


def _index(task: Classifier, asked: str) -> int | None:
    names = task.classes.names
    if asked == "top":
        return None
    if asked in names:
        return names.index(asked)
    if asked.isdigit() and int(asked) < len(names):
        return int(asked)
    near = difflib.get_close_matches(asked, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"say top, a name or an index below {len(names)}"
    raise DataError(f"heatmap={asked}: no such class; {hint}")
