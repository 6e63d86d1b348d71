"""The classes' colours: far apart, also for the colour blind, and the same wherever a class is drawn."""

from functools import cache

import cv2
import numpy as np

from retinue.datasets.targets import ClassMap

BACKGROUND, VOID = (52, 54, 60), (150, 150, 150)
"""Of what belongs to no class worth a colour, and of what nobody knows."""

FIRST = (
    (86, 180, 233), (213, 94, 0), (240, 228, 66), (204, 121, 167), (0, 114, 178), (0, 158, 115), (230, 159, 0),
)  # fmt: skip
"""The seven colours that Okabe & Ito 2008 chose for all kinds of eyes ("Color universal design"), in another order."""

EYES = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ]
)
"""What linear RGB looks like to most people, without red cones and without green ones (Machado et al. 2009)."""

WEIGHTS = (0.45, 1.0, 1.0)
"""What a distance counts to these eyes; the first see more of it."""


def palette(count: int) -> np.ndarray:
    """(count, 3) uint8 RGB with the same beginning for every count; from 256 on the colours come again.

    After the `FIRST`, each is as far as can be from all before it by the smallest of the distances in CIELAB that the
    three kinds of `EYES` see; none is dark, pale, grey or glaring.
    """
    return _colours()[np.arange(count) % len(_colours())]


def colours_of(classes: ClassMap) -> np.ndarray:
    """(classes, 3) uint8 RGB: the palette, but a first class called "background" is dark grey."""
    if classes.names[:1] == ("background",):
        return np.concatenate([np.array([BACKGROUND], np.uint8), palette(len(classes) - 1)])
    return palette(len(classes))


@cache
def _colours(count: int = 255, steps: int = 18) -> np.ndarray:
    values = np.linspace(0, 255, steps).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(values, values, values, indexing="ij"), -1).reshape(-1, 3)
    seen = as_seen(grid)
    lightness, chroma = seen[:, 0, 0], np.hypot(seen[:, 0, 1], seen[:, 0, 2])
    usable = (lightness > 34) & (lightness < 86) & (chroma > 28) & (chroma < 70)
    grid, seen = grid[usable], seen[usable]
    taken = list(as_seen(np.array(FIRST, np.uint8)))
    nearest = np.min([distances(seen, one) for one in taken], 0)
    chosen = []
    for _ in range(count - len(FIRST)):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, distances(seen, seen[chosen[-1]]))
    return np.concatenate([np.array(FIRST, np.uint8), grid[chosen]])


def as_seen(colours: np.ndarray) -> np.ndarray:
    """(n, 3) uint8 RGB -> (n, 3, 3): CIELAB of each colour as each of the `EYES` sees it."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = np.einsum("kij,nj->nki", EYES, linear).clip(0, 1)
    encoded = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    return cv2.cvtColor(encoded.astype(np.float32), cv2.COLOR_RGB2Lab)


def distances(seen: np.ndarray, one: np.ndarray) -> np.ndarray:
    """(n,): of colours (n, eyes, 3) from one (eyes, 3), to the eyes that tell them apart worst."""
    return (np.linalg.norm(seen - one, axis=2) * WEIGHTS).min(1)
