"""Which pixels of a label map lie near the boundary of their class: what boundary IoU judges."""

import math

import cv2
import numpy as np

RATIO = 0.02
"""Width of the boundary region as a share of the picture's diagonal."""


def boundary_width(height: int, width: int) -> int:
    """Width of the boundary region in whole pixels, at least 1 (Cheng et al. 2021, arXiv:2103.16562)."""
    return max(1, round(RATIO * math.hypot(height, width)))


def near_boundary(labels: np.ndarray, known: np.ndarray, width: int) -> np.ndarray:
    """Where a pixel lies within `width` of the boundary of its own class, for all classes at once.

    labels: (h, w) uint8 class indices. known: (h, w) bool, false where the truth is ignored. Gives (h, w) bool; what
    it gives at ignored pixels has no meaning.

    A pixel is near if the square of 2 * width + 1 around it holds another class or reaches beyond the picture. This
    is exactly what Cheng et al. (2021, arXiv:2103.16562) find for one class by eroding its mask `width` times with a
    3x3 square, the picture padded with zeros: the class is all there is in the square, or the erosion takes the pixel.

    Ignored pixels are of no class and make no boundary. So a band of them along an object does not count as an edge
    of it, which the truth would have and no prediction could; the class behind the band still does.
    """
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    # Ignored pixels are the largest value to the minimum and the smallest to the maximum, so that neither sees them.
    mask = known * np.uint8(255)
    near = cv2.erode(labels | ~mask, square) != cv2.dilate(labels & mask, square)
    near[:width] = near[-width:] = True
    near[:, :width] = near[:, -width:] = True
    return near
