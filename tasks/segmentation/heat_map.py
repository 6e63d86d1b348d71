"""Where a classifier sees a class: its probability in windows over a picture, said and drawn."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from retinue.tasks.drawing import WHITE, text_width, write

PANEL = (22, 26, 30)


@dataclass(frozen=True, eq=False)
class HeatMap:
    """The probability of one class in windows over a picture.

    id: the picture's id. label: the class's name. probabilities: (h, w) float32, a value a window. grid: x and y of the
    first window's centre and the distances of the centres, in the file's pixels. window: its width and height there.
    """

    id: str
    label: str
    probabilities: np.ndarray
    grid: tuple[float, float, float, float]
    window: tuple[float, float]

    @property
    def best(self) -> tuple[float, float, float, float]:
        """The window of the largest probability, x1 y1 x2 y2 in the file's pixels."""
        row, column = np.unravel_index(self.probabilities.argmax(), self.probabilities.shape)
        x, y, dx, dy = self.grid
        x, y = x + column * dx, y + row * dy
        width, height = self.window
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    def __str__(self) -> str:
        box = ", ".join(f"{value:.0f}" for value in self.best)
        return f"{self.label}: at most {self.probabilities.max():.2f}, in the window {box}"

    def to_json(self) -> dict[str, Any]:
        """The class, its largest probability with the window (x1 y1 x2 y2), and the map with its place in the file."""
        return {
            "label": self.label,
            "score": float(self.probabilities.max()),
            "box": [round(value, 1) for value in self.best],
            "probabilities": [[round(float(value), 4) for value in row] for row in self.probabilities],
            "grid": list(self.grid),
            "window": list(self.window),
        }

    def draw(self, picture: np.ndarray) -> np.ndarray:
        """The picture (h, w, 3) uint8 RGB under the map's colours, with a bar that says what they mean.

        A pixel has the mean of all windows, weighted by how near their centres are to it: the weights are normal
        distributions with a standard deviation of a sixth of the window.
        """
        height, width = picture.shape[:2]
        x, y, dx, dy = self.grid
        rows = _weights(height, y, dy, self.probabilities.shape[0], self.window[1] / 6)
        columns = _weights(width, x, dx, self.probabilities.shape[1], self.window[0] / 6)
        values = rows @ self.probabilities @ columns.T
        share = (0.25 + 0.4 * values)[..., None]  # what is cold stays readable
        drawn = ((1 - share) * picture + share * _colours(values)).round().astype(np.uint8)
        return _with_bar(drawn, self.label)


def _weights(pixels: int, first: float, step: float, centres: int, deviation: float) -> np.ndarray:
    """(pixels, centres) float32: the share of each centre on a line in each pixel; rows sum to 1."""
    distances = np.arange(pixels)[:, None] + 0.5 - (first + step * np.arange(centres))
    exponents = -0.5 * (distances / deviation) ** 2
    weights = np.exp(exponents - exponents.max(1, keepdims=True))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _colours(values: np.ndarray) -> np.ndarray:
    """Values (h, w) in [0, 1] -> colours (h, w, 3) uint8 RGB."""
    levels = (255 * values.clip(0, 1)).round().astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)


def _with_bar(picture: np.ndarray, label: str) -> np.ndarray:
    """The picture, changed in place, with the class's name and the colours of 0 to 1 at its lower left."""
    height, width = picture.shape[:2]
    row = max(11, round(min(height, width) / 22))
    margin, bar = max(2, row // 3), max(3, row // 2)
    if height < 3 * row + 3 * margin or width < 6 * row:
        return picture
    across = min(width, max(8 * row, text_width(label, row) + 2 * margin))
    panel = picture[height - 2 * row - bar - 2 * margin :, :across]
    panel[:] = (0.25 * panel + 0.75 * np.array(PANEL)).astype(np.uint8)
    top = height - 2 * row - bar - margin
    write(picture, label, margin, top, row, WHITE)
    ramp = np.linspace(0, 1, across - 2 * margin)[None].repeat(bar, axis=0)
    picture[top + row : top + row + bar, margin : across - margin] = _colours(ramp)
    for text, share in (("0", 0.0), ("0.5", 0.5), ("1", 1.0)):
        x = margin + round(share * (across - 2 * margin - text_width(text, row)))
        write(picture, text, x, top + row + bar, row, WHITE)
    return picture
