"""Backbone: a picture becomes feature maps, once. The only file of the backbones that a head must know."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

Features = dict[str, Tensor]
"""Level name -> feature map (n, channels, height, width), finest first."""


@dataclass(frozen=True)
class Level:
    """What is known of a feature map before any picture is seen.

    `stride` is the nominal ratio of the picture's side to the map's side; the exact size of a map for a given
    picture is `Backbone.output_sizes`.
    """

    channels: int
    stride: int


@dataclass(frozen=True)
class Preprocessing:
    """How the pictures were prepared that some weights were trained on: data that travels with the weights.

    Pictures at a model's door are RGB in [0, 1]; `mean` and `std` are in that range and per input channel.
    `order` and `white` describe networks that were trained on BGR or on 0..255: the backbone converts.
    `resize` is the length of the shorter side and `crop` the side of the central square used to measure
    `Weights.top1`; `pad` is the value of each channel, in [0, 1], on a padded canvas, whose sides are multiples of
    `divisor`: one number for all, by default `mean`, which normalisation makes 0. Raises ValueError where `pad`
    has another length than `mean`.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    order: Literal["RGB", "BGR"] = "RGB"
    white: float = 1.0
    resize: int = 256
    crop: int = 224
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = True
    pad: tuple[float, ...] = ()
    divisor: int = 1

    def __post_init__(self) -> None:
        one_for_all = isinstance(self.pad, (int, float))
        pad = (self.pad,) * len(self.mean) if one_for_all else tuple(self.pad) or tuple(self.mean)
        if len(pad) != len(self.mean):
            raise ValueError(f"pad={pad} has {len(pad)} channels, mean={self.mean} has {len(self.mean)}")
        object.__setattr__(self, "pad", pad)

    def for_channels(self, channels: int) -> "Preprocessing":
        """The same preparation for pictures with another number of channels.

        One channel takes the mean over RGB; more channels repeat R, G, B cyclically.
        """
        n = len(self.mean)
        if channels == n:
            return self

        def fit(values: tuple[float, ...]) -> tuple[float, ...]:
            return (sum(values) / n,) if channels == 1 else tuple(values[i % n] for i in range(channels))

        return replace(self, mean=fit(self.mean), std=fit(self.std), pad=fit(self.pad))


@dataclass(frozen=True)
class Origin:
    """Where a backbone's weights came from, for the header of a saved model.

    `source` is a URL or a file; `top1` the published ImageNet accuracy in percent, where it is known.
    """

    source: str
    licence: str = "unknown"
    top1: float | None = None


class Top(nn.Module):
    """What an ImageNet classifier has above its maps; `Backbone.chop` hands it over.

    `embed`: the map of `level` (n, c, h, w) -> the vector (n, `embedding`) that the last layer reads
    (global pooling for a ResNet, fc6 and fc7 for VGG).
    `last`: (n, `embedding`) -> logits (n, classes).
    `auxiliary`: by level, classifiers on inner maps that only help training (GoogLeNet).
    """

    auxiliary_weight = 0.3  # Szegedy et al. 2015, section 5

    def __init__(
        self,
        level: str,
        embedding: int,
        embed: nn.Module,
        last: nn.Module,
        auxiliary: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.level, self.embedding = level, embedding
        self.embed, self.last = embed, last
        self.auxiliary = nn.ModuleDict(dict(auxiliary or {}))

    def forward(self, features: Features) -> Tensor:
        """Logits (n, classes) from a batch's features."""
        return self.last(self.embed(features[self.level]))

    def replace_last(self, classes: int) -> None:
        """Swap the last layers, the auxiliary ones' included, for new ones with `classes` outputs."""
        self.last = nn.Linear(self.embedding, classes)
        for head in self.auxiliary.values():
            head.replace_last(classes)  # type: ignore[operator]


TAKEN, NEW = "taken_from", "made_new"
"""Names of the marks on modules that `Backbone` explains."""


def is_norm(module: nn.Module) -> bool:
    """Whether it is a batch norm, whose statistics freezing holds."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


class Backbone(nn.Module):
    """A network that turns pictures into a pyramid of feature maps.

    A family sets `levels` and implements `trunk`; one that comes from a classifier implements `top` and names
    its modules as torchvision does, so that published weights load without translation.

    What a task takes over from a backbone (`chop`, `cut`) keeps the backbone's rules: its modules carry their path in
    the backbone as `taken_from`, by which a `Model` freezes them with the trunk and an optimizer gives them the
    trunk's learning rate. What is new in a backbone around a backbone (FPN) carries `made_new`, and learns and thaws
    with the heads.

    Level names are stages: `image` is the normalised picture itself (stride 1); `c1`..`c5` have strides 2 to
    32 in a plain pyramid; a backbone may declare further taps.
    """

    levels: dict[str, Level]
    top_modules: tuple[str, ...] = ()
    """Names of the attributes that `top` is made of; `chop` removes them."""

    architecture: str = ""
    """Name of the builder that made it: `build(architecture, **options)` gives the same modules."""
    options: dict[str, Any]
    weights: Origin | None = None
    new_top: bool = False
    """Whether weights were loaded that had no classifier: what `chop` then hands over is new."""
    categories: tuple[str, ...] = ()
    """Names of the classes that the loaded classifier knows; empty where it is not a loaded one."""

    mean: Tensor
    std: Tensor

    def __init__(self, in_channels: int = 3, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.options = {}
        self.frozen_stages: tuple[str, ...] = ()
        self.frozen_norm = False
        self.removed_stages: tuple[str, ...] = ()
        self.prepare_for(preprocessing or Preprocessing())

    def prepare_for(self, preprocessing: Preprocessing) -> None:
        """Normalise pictures as these weights expect from now on."""
        self.preprocessing = preprocessing.for_channels(self.in_channels)
        mean = torch.tensor(self.preprocessing.mean).view(-1, 1, 1)
        std = torch.tensor(self.preprocessing.std).view(-1, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Pictures (n, channels, h, w), RGB in [0, 1] -> what the first layer reads."""
        if images.shape[1] != self.in_channels:
            raise ValueError(
                f"pictures have {images.shape[1]} channels, this backbone reads {self.in_channels}: "
                f"build it with in_channels={images.shape[1]}"
            )
        images = (images - self.mean) / self.std
        if self.preprocessing.order == "BGR":
            images = images.flip(1)
        return images * self.preprocessing.white if self.preprocessing.white != 1 else images

    def absorb_normalisation(self) -> bool:
        """Let the first layer do what `normalise` does, if it can exactly, for a copy that will only predict.

        Returns whether it does: pictures then go in as they are. Weights are replaced, never written to.
        """
        return False

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """The network's parts in order, by the name of the map that each ends in; each reads the last one."""
        raise NotImplementedError

    def stages(self) -> dict[str, Sequence[nn.Module]]:
        """The trunk without what `cut` took off."""
        return {name: modules for name, modules in self.trunk().items() if name not in self.removed_stages}

    def forward(self, images: Tensor, levels: Collection[str] | None = None) -> Features:
        """Feature maps of pictures (n, channels, h, w), float, RGB in [0, 1].

        `levels` names the maps to return (default: all); nothing above the last of them is computed.
        Raises KeyError for an unknown level.
        """
        wanted = self.wanted(levels)
        x = self.normalise(images)
        maps = {"image": x} if "image" in wanted else {}
        for name, modules in self.stages().items():
            if len(maps) == len(wanted):
                break
            for module in modules:
                x = module(x)
            if name in wanted:
                maps[name] = x
        return maps

    def wanted(self, levels: Collection[str] | None) -> set[str]:
        """The set of levels asked for; KeyError names unknown ones."""
        wanted = set(self.levels if levels is None else levels)
        if unknown := wanted - self.levels.keys():
            raise KeyError(f"no level {sorted(unknown)}; this backbone has {list(self.levels)}")
        return wanted

    def output_sizes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """(height, width) of every level's map for pictures of this size, without computing one.

        Raises ValueError where the picture is too small for the network.
        """
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
        images = torch.empty(1, self.in_channels, height, width, device="meta")
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                maps = torch.func.functional_call(self, shapes, (images,))
        except RuntimeError as error:
            raise ValueError(
                f"pictures of {height}x{width} are too small for this backbone: {error}"
            ) from None
        finally:
            self.train(training)
        return {name: (m.shape[-2], m.shape[-1]) for name, m in maps.items()}

    # What a classifier has above its maps

    def top(self) -> Top | None:
        """The classifier's upper part, its modules still this backbone's own; None where there is none."""
        return None

    def chop(self) -> Top | None:
        """Take the classifier off: what is left serves any task. None when it is off already."""
        if not self.top_modules or not hasattr(self, self.top_modules[0]):
            return None
        top = self.top()
        if top and not self.new_top:
            self._mark_taken([*top.embed.modules(), *top.auxiliary.modules()])
        for name in self.top_modules:
            if hasattr(self, name):
                delattr(self, name)
        return top

    def _mark_taken(self, modules: Iterable[nn.Module]) -> None:
        places = {id(module): path for path, module in self.named_modules()}
        for module in modules:
            if id(module) in places:
                setattr(module, TAKEN, places[id(module)])

    def cut(self, name: str) -> nn.Sequential:
        """Take off the named last stage, for a head that runs it itself (res5 per region in a C4 detector).

        Raises ValueError if it is not the last stage that is left.
        """
        stages = self.stages()
        if name != list(stages)[-1]:
            raise ValueError(f"{name!r} is not the last stage; the stages are {list(stages)}")
        removed = nn.Sequential(*stages[name])
        places = {id(module): path for path, module in self.named_modules()}
        self._mark_taken(removed.modules())
        for module in removed:
            parent, _, attribute = places[id(module)].rpartition(".")
            setattr(self.get_submodule(parent), attribute, nn.Identity())
        self.levels = {level: value for level, value in self.levels.items() if level != name}
        self.removed_stages += (name,)
        return removed

    # Freezing

    def freeze(self, through: str | None = "all", norm: bool | None = None) -> None:
        """Freeze all parts up to and including the stage `through` ("all", or None for no part).

        Frozen means no gradient and evaluation mode (batch norm, dropout, stochastic depth), whatever
        `train()` is called later. `norm=True` freezes the batch norms too, wherever they are, but not new ones.
        Raises KeyError for an unknown stage.
        """
        names = list(self.stages())
        if through is None:
            self.frozen_stages = ()
        elif through == "all":
            self.frozen_stages = tuple(names)
        elif through in names:
            self.frozen_stages = tuple(names[: names.index(through) + 1])
        else:
            raise KeyError(f"no stage {through!r}; this backbone has {names}")
        self.frozen_norm = self.frozen_norm if norm is None else norm
        for parameter in self.parameters():
            parameter.requires_grad_(True)
        for module in self._frozen():
            module.requires_grad_(False)
        self.train(self.training)

    def pretrained_stages(self) -> list[str]:
        """The stages, in order, without those of new parts (an FPN's own)."""
        return [name for name, part in self.stages().items() if not any(hasattr(m, NEW) for m in part)]

    def _frozen(self) -> list[nn.Module]:
        stages = self.stages()
        modules = [module for name in self.frozen_stages for module in stages.get(name, ())]
        if self.frozen_norm:
            modules += [m for m in self.modules() if is_norm(m) and not hasattr(m, NEW)]
        return modules

    def train(self, mode: bool = True) -> "Backbone":
        """As `nn.Module.train`, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self


class Pixels(Backbone):
    """The trivial backbone: the picture itself as its one level `image`, for networks without a trunk."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__(in_channels, Preprocessing(mean=(0.0,) * in_channels, std=(1.0,) * in_channels))
        self.architecture, self.options = "pixels", {"in_channels": in_channels}
        self.levels = {"image": Level(in_channels, 1)}

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """No parts: nothing is learnt here."""
        return {}
