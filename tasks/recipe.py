"""What tasks of every kind do to training pictures as their settings say, and the ranges of such settings."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from retinue.backbones.backbone import Preprocessing
from retinue.datasets.targets import DataError, Transform
from retinue.datasets.transforms import ColorJitter, HorizontalFlip, VerticalFlip


def check_range(settings: Mapping[str, Any], name: str, least: float, most: float) -> None:
    """DataError unless the setting lies in [least, most]."""
    if not least <= settings[name] <= most:
        raise DataError(f"{name}={settings[name]}: {name} is from {least} to {most}")


def check_recipe(settings: Mapping[str, Any]) -> None:
    """DataError unless `colour` is in [0, 1] and `scales` are two shares of imgsz in order."""
    check_range(settings, "colour", 0, 1)
    scales = settings["scales"]
    if len(scales) != 2 or not 0 < scales[0] <= scales[1]:
        raise DataError(f"scales={list(scales)}: two shares of imgsz, 0 < least <= most")


def jitter(strength: float) -> Transform:
    """Random colours: brightness, contrast and saturation by factors from 1 - strength to 1 + strength."""
    return ColorJitter(strength, strength, strength)


def looks(
    settings: Mapping[str, Any],
    preprocessing: Preprocessing,
    colours: Callable[[float], Transform] = jitter,
    pairs: Sequence[tuple[int, int]] = (),
) -> list[Transform]:
    """Mirroring and colours (of RGB pictures only), as `flip`, `vertical_flip` and `colour` say where there are such.

    colours: of a strength above 0. pairs: keypoints that change places in a mirror.
    """
    steps: list[Transform] = []
    if settings.get("flip"):
        steps.append(HorizontalFlip(pairs=pairs))
    if settings.get("vertical_flip"):
        steps.append(VerticalFlip(pairs=pairs))
    if settings.get("colour") and len(preprocessing.mean) == 3:
        steps.append(colours(settings["colour"]))
    return steps
