"""Any network of timm (PyTorch Image Models, Wightman) that gives a feature pyramid, as a backbone."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from retinue.backbones.backbone import Backbone, Features, Level, Origin, Preprocessing
from retinue.backbones.weights import WeightsError, insert, read_tensors

IMAGENET = Preprocessing()
OPTIONS = frozenset(
    [
        "depths",
        "drop_path_rate",
        "drop_rate",
        "embed_dim",
        "img_size",
        "num_heads",
        "out_indices",
        "output_stride",
    ]
)
"""What may be asked of timm. Others name files and addresses (checkpoint_path), and a header may be hostile."""


class FromTimm(Backbone):
    """A timm feature extractor under our contract: a level c{log2 of the stride} for each of its maps.

    Maps are channels first whatever the network's own order. Where timm's extractor is a chain of modules, the
    levels are stages (to freeze, to cut) and nothing above the last one asked for is computed; else it is one
    stage, named by its last level.
    """

    def __init__(self, name: str, body: nn.Module, in_channels: int = 3) -> None:
        super().__init__(in_channels)
        self.body, self.architecture = body, f"timm/{name}"
        info: Any = body.feature_info
        self.maps = {f"c{int(math.log2(stride))}": Level(n, stride) for n, stride in _pyramid(name, info)}
        self.levels = {"image": Level(in_channels, 1), **self.maps}
        cfg: Any = body.pretrained_cfg
        self.prepare_for(_preprocessing(cfg, list(self.maps.values())[-1].stride))
        self.channels_last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """The chain of modules by the map that it passes, or all of it as one stage."""
        if not _is_chain(self.body):
            return {list(self.maps)[-1]: [self.body]}
        parts: dict[str, Sequence[nn.Module]] = {}
        returned: Any = self.body.return_layers
        names, modules = iter(self.maps), []
        for key, module in self.body.named_children():
            modules.append(module)
            if key in returned:
                parts[next(names)], modules = modules, []
        return parts

    def forward(self, images: Tensor, levels: Collection[str] | None = None) -> Features:
        """Feature maps of pictures (n, channels, h, w), float, RGB in [0, 1]; `levels` as in `Backbone`."""
        if _is_chain(self.body):
            maps = super().forward(images, levels)
        else:
            wanted, x = self.wanted(levels), self.normalise(images)
            maps = {"image": x} if "image" in wanted else {}
            if wanted - maps.keys():
                maps |= {name: m for name, m in zip(self.maps, self.body(x)) if name in wanted}
        return {name: self._channels_first(m) if name != "image" else m for name, m in maps.items()}

    def output_sizes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """As in `Backbone`; raises ValueError where the network does not take pictures of this size."""
        try:
            return super().output_sizes(height, width)
        except (AssertionError, ValueError) as error:
            raise ValueError(
                f"{self.architecture} does not take pictures of {height}x{width}: {error}. "
                f"Try sides that are multiples of {self.preprocessing.divisor}"
            ) from None

    def _channels_first(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2) if self.channels_last else x


def from_timm(name: str, weights: str | None = None, *, in_channels: int = 3, **options: Any) -> FromTimm:
    """The timm model `name` without its classifier, with some `options` of its own (`OPTIONS`: `img_size=512`).

    `weights`: None (random), "imagenet" (timm fetches its own default for this name), or a local file of the
    model's state. Networks of a fixed input size are opened for other sizes where they can be. Raises
    WeightsError: timm is not installed, no such model, another option, a model without a pyramid, or weights that
    do not fit. Names of models elsewhere ("hf-hub:owner/repo", "local-dir:path") are refused: give a file as `weights`.
    """
    if ":" in name:
        raise WeightsError(
            f"timm/{name} names a model elsewhere: give timm's own name, and a file as weights"
        )
    if unknown := sorted(options.keys() - OPTIONS):
        raise WeightsError(
            f"timm/{name} takes no option {', '.join(unknown)} here, only {', '.join(sorted(OPTIONS))}"
        )
    timm = _timm()
    path = None if weights in (None, "imagenet") else Path(str(weights)).expanduser()
    arguments = dict(options, features_only=True, in_chans=in_channels, pretrained=weights == "imagenet")
    tensors = read_tensors(path) if path else {}
    ours = any("body." in key for key in tensors)
    if path and not ours:
        _check_file(timm, name, path, set(tensors), options)
        arguments |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}
    backbone = FromTimm(name, _create(timm, name, arguments), in_channels)
    backbone.options = {"in_channels": in_channels, **options}
    if ours:
        insert(backbone, {key.removeprefix("backbone."): value for key, value in tensors.items()}, str(path))
    if weights:
        cfg: Any = backbone.body.pretrained_cfg
        licence = (cfg.get("license") if path is None else None) or "unknown"
        backbone.weights = Origin(str(path or cfg.get("hf_hub_id") or cfg.get("url")), licence)
    return backbone


def _timm() -> ModuleType:
    try:
        import timm  # an extra, and slow
    except ImportError:
        raise WeightsError("timm is not installed, which timm/... needs: pip install retinue[timm]") from None
    return timm


def _create(timm: ModuleType, name: str, arguments: dict[str, Any]) -> nn.Module:
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('.')[0][:8]}*")[:5]
        raise WeightsError(f"timm has no model {name!r}; near it: {close}. timm.list_models() gives all")
    try:
        try:
            return timm.create_model(name, strict_img_size=False, **arguments)
        except TypeError:  # most models have no fixed size, and no such argument
            return timm.create_model(name, **arguments)
    except Exception as error:  # every model refuses features_only, weights and options in its own way
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise WeightsError(
            f"timm/{name} cannot be opened as a feature pyramid: {reason}. Choose a convolutional or "
            "hierarchical model (timm.list_models()), and check its weights and options"
        ) from error


def _check_file(timm: ModuleType, name: str, path: Path, given: set[str], options: dict[str, Any]) -> None:
    """Raises WeightsError unless the file has all of the model below its classifier: timm would not say."""
    full = _create(timm, name, {**options, "num_classes": 0})
    own = {key for key in full.state_dict() if not key.endswith("num_batches_tracked")}
    if missing := sorted(own - given):
        raise WeightsError(
            f"{path}: these weights are of another network than timm/{name}: {len(missing)} keys are missing "
            f"{missing[:3]}. Choose the model that they were trained with"
        )


def _pyramid(name: str, info: Any) -> list[tuple[int, int]]:
    """(channels, stride) of every map. Raises WeightsError unless the strides grow by powers of two."""
    strides = list(info.reduction())
    if any(s & (s - 1) for s in strides) or strides != sorted(set(strides)):
        raise WeightsError(
            f"timm/{name} gives no pyramid but maps of strides {strides}: choose a convolutional or "
            "hierarchical model, such as resnet50, convnext_tiny or swin_tiny_patch4_window7_224"
        )
    return list(zip(info.channels(), strides, strict=True))


def _preprocessing(cfg: dict[str, Any], stride: int) -> Preprocessing:
    """timm's `pretrained_cfg` in our words; many of its networks take only multiples of their last stride."""
    crop = cfg.get("input_size", (3, IMAGENET.crop, IMAGENET.crop))[-1]
    return Preprocessing(
        mean=tuple(cfg.get("mean") or IMAGENET.mean),
        std=tuple(cfg.get("std") or IMAGENET.std),
        resize=math.floor(crop / (cfg.get("crop_pct") or 0.875)),
        crop=crop,
        interpolation="bilinear" if cfg.get("interpolation") == "bilinear" else "bicubic",
        divisor=stride,
    )


def _is_chain(body: nn.Module) -> bool:
    """Whether the extractor runs its children one after another and hands out what they return."""
    return type(body).__name__ == "FeatureListNet" and not getattr(body, "concat", False)
