"""Stacked hourglass (Newell, Yang & Deng 2016, arXiv:1603.06937): down and up again, several times, each time judged.

The paper finds joints of people; its network answers at every cell of a map of stride 4, here with classes.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from retinue.backbones.backbone import Backbone, Features
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.dense import conv_norm, resize, whole_cells
from retinue.tasks.segmentation.segmenter import Segmenter, classifier

STRIDE = 4


class StackedHourglass(Segmenter):
    """A class at every pixel, by hourglasses one after the other.

    On the picture itself (`backbone=pixels`, the paper's form and the default without weights) the network has its own
    stem; on a backbone, its map of stride 4 stands in the stem's place, and nothing deeper is used.
    stacks: hourglasses. depth: halvings within each. width: channels; the paper has 8, 4 and 256. auxiliary: weight of
    each intermediate answer's loss. The other settings are `Segmenter`'s.
    """

    helped = True

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        stacks: int = 2,
        depth: int = 4,
        width: int = 256,
        auxiliary: float = 1.0,
        **settings: Any,
    ) -> None:
        whole_cells(backbone, STRIDE)
        super().__init__(backbone, classes, auxiliary=auxiliary, **settings)
        self.settings |= {"stacks": stacks, "depth": depth, "width": width}
        if stacks < 1 or depth < 1 or width < 4:
            raise DataError(
                f"stacks={stacks}, depth={depth}, width={width}: at least 1 stack, depth 1 and 4 channels"
            )
        level, self.stem = _stem(backbone, width)
        self.levels, self.width, self.inner_stride = (level,), width, STRIDE * 2**depth
        self.hourglasses = nn.ModuleList(Hourglass(width, depth) for _ in range(stacks))
        self.after = nn.ModuleList(
            nn.Sequential(Residual(width, width), conv_norm(width, width, 1)) for _ in range(stacks)
        )
        self.remap = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(stacks - 1))
        self.forget_classes()

    @classmethod
    def recipe(cls, pretrained: bool) -> dict[str, Any]:
        """As every segmenter; without weights there is no trunk."""
        return super().recipe(pretrained) | ({} if pretrained else {"backbone": "pixels"})

    def forget_classes(self) -> None:
        """New last layers, and new ones that lead their answers on into the next hourglass."""
        stacks, classes = len(self.hourglasses), len(self.classes)
        self.classifiers = nn.ModuleList(classifier(self.width, classes) for _ in range(stacks))
        self.remap_answer = nn.ModuleList(nn.Conv2d(classes, self.width, 1) for _ in range(stacks - 1))

    def logits(self, features: Features) -> list[Tensor]:
        """Logits of the last hourglass at stride 4, then those of the earlier ones."""
        x = self.stem(features[self.levels[0]])
        answers = []
        for i, (hourglass, judge) in enumerate(zip(self.hourglasses, self.classifiers)):
            seen = self.after[i](hourglass(x))
            answers.append(judge(seen))
            if i < len(self.remap):
                x = x + self.remap[i](seen) + self.remap_answer[i](answers[-1])
        return answers[::-1]


class Residual(nn.Module):
    """The bottleneck of figure 4 (left): norm, ReLU and convolution three times, 1x1, 3x3 and 1x1, beside a shortcut.

    (n, inputs, h, w) -> (n, outputs, h, w).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        narrow = outputs // 2
        self.layers = nn.Sequential(
            *_pre_activated(inputs, narrow, 1),
            *_pre_activated(narrow, narrow, 3),
            *_pre_activated(narrow, outputs, 1),
        )
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h, w)."""
        return self.shortcut(x) + self.layers(x)


class Hourglass(nn.Module):
    """Figure 3: the map is halved `depth` times and enlarged again; at each size a residual module leads across.

    (n, width, h, w) -> the same shape. Halving rounds up and enlarging is by the nearest, to the very size before, so
    that each cell covers the same pixels on the way up as on the way down.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.across = Residual(width, width)
        self.down = Residual(width, width)
        self.inner: nn.Module = Hourglass(width, depth - 1) if depth > 1 else Residual(width, width)
        self.up = Residual(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) -> (n, width, h, w)."""
        low = self.up(self.inner(self.down(max_pool2d(x, 2, ceil_mode=True))))
        return self.across(x) + resize(low, x.shape[-2:], "nearest")


def _pre_activated(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2),
    ]


def _stem(backbone: Backbone, width: int) -> tuple[str, nn.Module]:
    """The level that is read, and what makes of it the first map of stride 4 (section 3.2)."""
    fine = [name for name, level in backbone.levels.items() if level.stride == STRIDE]
    if fine:
        return fine[-1], Residual(backbone.levels[fine[-1]].channels, width)
    if list(backbone.levels) != ["image"]:
        raise DataError(
            f"hourglass reads a map of stride {STRIDE}, and {backbone.architecture} has only "
            f"{', '.join(backbone.levels)}: take another backbone, or backbone=pixels for the paper's own stem"
        )
    inputs = backbone.levels["image"].channels
    quarter, half = width // 4, width // 2
    first = nn.Sequential(nn.Conv2d(inputs, quarter, 7, 2, 3), nn.BatchNorm2d(quarter), nn.ReLU(inplace=True))
    pool = nn.MaxPool2d(2, 2, ceil_mode=True)
    return "image", nn.Sequential(
        first, Residual(quarter, half), pool, Residual(half, half), Residual(half, width)
    )
