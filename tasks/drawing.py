"""What every task's drawings share: text, sheets of pictures, and a batch's pictures as the network sees them."""

from collections.abc import Sequence

import cv2
import numpy as np

from retinue.datasets.targets import Pictures

Colour = tuple[int, int, int]
"""Red, green, blue in 0..255."""

FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE, PAPER, INK = (255, 255, 255), (250, 250, 250), (40, 40, 40)
RIGHT, WRONG = (30, 130, 60), (200, 40, 40)


def sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    colours: Sequence[Colour],
    columns: int = 4,
    tile: int = 192,
    tile_height: int | None = None,
) -> np.ndarray:
    """Pictures (h, w, 3) uint8 in a grid of `tile` pixels, each over its caption; without one, an empty tile.

    tile_height: of tiles that are not square, for pictures that are none.
    """
    row, gap = max(14, min(22, tile // 10)), max(4, min(10, tile // 32))
    tall = tile if tile_height is None else tile_height
    columns = max(1, min(columns, len(images)))
    lines = max(1, -(-len(images) // columns))
    canvas = np.full((gap + lines * (tall + row + gap), gap + columns * (tile + gap), 3), PAPER, np.uint8)
    for i, (image, caption, colour) in enumerate(zip(images, captions, colours, strict=True)):
        y = gap + i // columns * (tall + row + gap)
        x = gap + i % columns * (tile + gap)
        _place(canvas[y : y + tall, x : x + tile], image)
        cv2.rectangle(canvas, (x, y + tall), (x + tile - 1, y + tall + row - 1), colour, -1)
        write(canvas, shorten(caption, tile - 8, row), x + 4, y + tall, row, WHITE)
    return canvas


def _place(area: np.ndarray, image: np.ndarray) -> None:
    """Show the whole image in the middle of an area."""
    room = min(area.shape[0] / image.shape[0], area.shape[1] / image.shape[1])
    image = fit(image, round(room * max(image.shape[:2])))
    height, width = image.shape[:2]
    y, x = (area.shape[0] - height) // 2, (area.shape[1] - width) // 2
    area[y : y + height, x : x + width] = image


def fit(image: np.ndarray, tile: int) -> np.ndarray:
    """The image with `tile` pixels at its longer side, its sides in proportion, pixels of small ones kept as pixels."""
    scale = tile / max(image.shape[:2])
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST if scale > 3 else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=kind)


def images_of(pictures: Pictures) -> list[np.ndarray]:
    """Every picture without its padding, (h, w, 3) uint8; of other numbers of channels the first one or three."""
    shown = []
    for pixels, (height, width) in zip(pictures.pixels, pictures.sizes):
        pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1].expand(3, -1, -1)
        image = (pixels[:, :height, :width].float().clamp(0, 1) * 255).round().byte()
        shown.append(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    return shown


def write(image: np.ndarray, text: str, x: int, y: int, row: int, colour: Colour) -> None:
    """Write text in place, in a row of `row` pixels whose top left corner is (x, y)."""
    scale, thickness = font(row)
    height = cv2.getTextSize("X", FONT, scale, thickness)[0][1]
    cv2.putText(image, text, (x, y + (row + height) // 2 - 1), FONT, scale, colour, thickness, cv2.LINE_AA)


def text_width(text: str, row: int) -> int:
    """Width in pixels of text in a row of `row` pixels."""
    return cv2.getTextSize(text, FONT, *font(row))[0][0]


def shorten(text: str, width: int, row: int) -> str:
    """The text, or as much of its beginning as fits into `width` pixels with two dots."""
    if text_width(text, row) <= width:
        return text
    while text and text_width(text + "..", row) > width:
        text = text[:-1]
    return text + ".."


def font(row: int) -> tuple[float, int]:
    """OpenCV's scale and thickness for text in a row of `row` pixels."""
    thickness = max(1, round(row / 20))
    return cv2.getFontScaleFromHeight(FONT, max(6, round(0.55 * row)), thickness), thickness
