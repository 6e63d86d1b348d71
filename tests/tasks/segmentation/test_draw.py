"""Sheets show every picture beside its truth, in the frame of the canvas; what is wrong is red and counted."""

import numpy as np
import pytest
import torch

from retinue.datasets.targets import IGNORE, ClassMap, Pictures
from retinue.tasks.drawing import INK, RIGHT, WRONG
from retinue.tasks.segmentation import draw as module
from retinue.tasks.segmentation.draw import draw_batch, paint_wrong
from retinue.tasks.segmentation.palette import palette
from retinue.tasks.segmentation.results import Segmentation

CLASSES = ClassMap(("road", "sky"))
TILE = 100
GAP, ROW = 4, 14


def batch(count: int = 1, side: int = 100, file: int = 400) -> Pictures:
    """Grey pictures of `side` pixels on a canvas, from files of `file` pixels."""
    scale = file / side
    to_file = torch.tensor([[[scale, 0, 0], [0, scale, 0]]], dtype=torch.float64).expand(count, 2, 3)
    pixels = torch.full((count, 3, side, side), 0.5)
    ids = [f"val/{i}.jpg" for i in range(count)]
    return Pictures(pixels, [(side, side)] * count, [(file, file)] * count, to_file, ids)


def halves(side: int) -> np.ndarray:
    """Road at the left, sky at the right."""
    labels = np.zeros((side, side), np.uint8)
    labels[:, side // 2 :] = 1
    return labels


def target(labels: np.ndarray) -> dict[str, torch.Tensor]:
    return {"semantic": torch.from_numpy(labels.astype(np.int64))}


def tiles(made: np.ndarray, count: int) -> list[np.ndarray]:
    """The first tiles of a sheet's first line."""
    starts = [GAP + i * (TILE + GAP) for i in range(count)]
    return [made[GAP : GAP + TILE, x : x + TILE] for x in starts]


def looks(part: np.ndarray, index: int) -> bool:
    """All in this class's colour, over mid grey."""
    return bool(np.abs(part - (0.6 * palette(2)[index] + 0.4 * 128)).max() < 2)


def captions(monkeypatch: pytest.MonkeyPatch, *args: object) -> list[tuple[str, tuple[int, int, int]]]:
    said: list[tuple[str, tuple[int, int, int]]] = []

    def sheet(
        images: object, captions: list[str], colours: list[tuple[int, int, int]], *_: object
    ) -> np.ndarray:
        said.extend(zip(captions, colours))
        return np.zeros((50, 50, 3), np.uint8)

    monkeypatch.setattr(module, "sheet", sheet)
    draw_batch(*args)  # type: ignore[arg-type]
    return said


def test_truth_alone_is_in_the_frame_of_the_canvas() -> None:
    made = draw_batch(batch(), [target(halves(100))], CLASSES, tile=TILE)
    picture, truth = tiles(made, 2)
    assert (picture == 128).all() and looks(truth[:, :49], 0) and looks(truth[:, 52:], 1)


def test_results_and_truth_are_in_the_frame_of_the_file() -> None:
    truth, labels = halves(400), halves(400)
    labels[300:] = 1  # wrong at the lower left
    truth[:100] = IGNORE
    found = Segmentation("val/0.jpg", labels, CLASSES)
    made = draw_batch(batch(), [target(truth)], CLASSES, [found], TILE)
    picture, true, said, wrong = tiles(made, 4)
    assert (picture == 128).all()
    assert looks(true[30:, :49], 0) and looks(said[:73, :49], 0) and looks(said[77:], 1)
    red = wrong[..., 0].astype(int) - wrong[..., 1]
    assert (red[75:, :50] > 80).all() and not red[:75].any() and not red[:, 50:].any()
    assert len(np.unique(wrong[:25])) > 1 and (wrong[26:74] == 128).all()  # hatched where ignored


def test_a_flipped_canvas_is_drawn_flipped() -> None:
    pictures = batch()
    pictures.to_file = torch.tensor([[[-4.0, 0, 400], [0, 4, 0]]], dtype=torch.float64)
    found = Segmentation("val/0.jpg", halves(400), CLASSES)
    _, true, said, _ = tiles(draw_batch(pictures, [target(halves(400))], CLASSES, [found], TILE), 4)
    for tile in (true, said):
        assert looks(tile[:, :49], 1) and looks(tile[:, 52:], 0)


def test_captions_have_the_figures_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, labels = halves(400), halves(400)
    labels[300:] = 1
    judged = captions(
        monkeypatch, batch(), [target(truth)], CLASSES, [Segmentation("val/0.jpg", labels, CLASSES)]
    )
    iou = (3 / 4 + 4 / 5) / 2
    assert judged == [
        ("0.jpg", INK), ("truth", INK), ("prediction", INK), (f"87.5 % right, mIoU {iou:.2f}", INK),
    ]  # fmt: skip
    perfect = captions(monkeypatch, batch(), [target(truth)], CLASSES, [Segmentation("a", truth, CLASSES)])
    assert perfect[3] == ("100.0 % right, mIoU 1.00", RIGHT)
    truth[:] = IGNORE
    blank = captions(monkeypatch, batch(), [target(truth)], CLASSES, [Segmentation("a", labels, CLASSES)])
    assert blank[3] == ("nothing to judge", INK)
    training = captions(monkeypatch, batch(), [target(halves(100))], CLASSES)
    assert training == [("0.jpg", INK), ("road 50 %, sky 50 %", INK)]


def test_what_is_wrong_is_red() -> None:
    truth = np.array([[0, 1, IGNORE, 1]], np.uint8).repeat(8, 0)
    drawn = paint_wrong(
        np.full((8, 4, 3), 100, np.uint8), truth, np.array([[0, 0, 0, 1]], np.uint8).repeat(8, 0)
    )
    assert (drawn[:, [0, 3]] == 100).all()
    assert np.abs(drawn[:, 1] - (0.75 * np.array(WRONG) + 25)).max() <= 1
    assert (drawn[:, 2] == drawn[:, 2, :1]).all()


@pytest.mark.parametrize("count", [0, 1, 3, 5, 9])
@pytest.mark.parametrize("judged", [False, True])
def test_every_picture_has_its_tiles(count: int, judged: bool) -> None:
    pictures, labels = batch(count), halves(400 if judged else 100)
    results = [Segmentation(id, labels, CLASSES) for id in pictures.ids] if judged else None
    made = draw_batch(pictures, [target(labels)] * count, CLASSES, results, TILE)
    tiles_each = 4 if judged else 2
    columns = min(8 if not judged or count > 4 else 4, max(1, count * tiles_each))
    lines = max(1, -(-count * tiles_each // columns))
    assert made.dtype == np.uint8 and made.shape[0] == GAP + lines * (TILE + ROW + GAP)
    assert made.shape[1] > GAP + columns * (TILE + GAP)


def test_wide_pictures_leave_no_bands() -> None:
    pictures = batch(2)
    pictures.sizes = [(50, 100), (40, 100)]
    targets = [target(np.zeros(size, np.uint8)) for size in pictures.sizes]
    made = draw_batch(pictures, targets, CLASSES, tile=TILE)
    assert len(made) == GAP + 50 + ROW + GAP
    assert (made[GAP : GAP + 50, GAP : GAP + TILE] == 128).all()
