"""What is drawn lies where the objects are, in every frame; names leave each other readable; nothing breaks it."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.datasets.targets import ClassMap, Pictures
from retinue.tasks.detection import draw as module
from retinue.tasks.detection.draw import count_names, draw_batch, judge
from retinue.tasks.detection.masks import EncodedMasks, encode
from retinue.tasks.detection.paint import LEFT, MIDDLE, RIGHT, Labels, colour, line_width, text_row
from retinue.tasks.detection.results import Detections
from retinue.tasks.drawing import INK, text_width
from retinue.tasks.drawing import RIGHT as GREEN
from retinue.tasks.drawing import WRONG as RED

CLASSES = ClassMap(("person", "dog", "kite"))


def detections(
    boxes: list[list[float]], labels: list[int], size: tuple[int, int], **more: object
) -> Detections:
    n = len(boxes)
    return Detections(
        "a", np.array(boxes, np.float32).reshape(n, 4), np.linspace(1, 0.6, n).astype(np.float32),
        np.array(labels, np.int64), CLASSES, size, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def of_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == np.array(colour)).all(2)


def test_classes_have_colours_of_their_own() -> None:
    colours = [colour(i) for i in range(96)]
    assert len(set(colours)) == 96 and colour(96) == colour(0)
    lab = cv2.cvtColor(np.array(colours, np.float32)[None] / 255, cv2.COLOR_RGB2Lab)[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1e3 * np.eye(96)
    assert apart[:10, :10].min() > 50 and apart[:20, :20].min() > 30 and apart.min() > 12


def test_a_box_is_drawn_on_its_border_and_nowhere_else() -> None:
    picture = np.zeros((100, 120, 3), np.uint8)
    drawn = detections([[20, 30, 61, 81]], [1], (100, 120)).draw(picture)
    assert not picture.any() and drawn.shape == picture.shape
    border = of_colour(drawn, colour(1))
    for line in (border[30, 20:61], border[80, 20:61], border[30:81, 20], border[30:81, 60]):
        assert line.all()
    assert not drawn[31:80, 21:60].any()
    assert not drawn[82:].any() and not drawn[:, 85:].any()  # the name is above


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 200), st.integers(80, 200), st.integers(0, 40))
def test_names_never_cover_each_other(seed: int, height: int, width: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.uint8)
    labels, painted = Labels(picture, []), 0
    for corners in rng.integers(-20, 220, (n, 2, 2)):
        (x1, y1), (x2, y2) = np.sort(corners, 0).tolist()
        if labels.paint("kite 97%", (x1, y1, x2, y2), (255, 255, 255)):
            painted += labels.row * (text_width("kite 97%", labels.row) + 2 * (labels.row // 5))
            assert labels.taken.sum() == painted  # all of the plate is in the picture and was free
    assert not picture[~labels.taken].any()


def test_every_object_of_a_roomy_picture_is_named() -> None:
    picture = np.zeros((600, 800, 3), np.uint8)
    labels = Labels(picture, [])
    boxes = [(x, y, x + 60, y + 60) for y in range(5, 500, 100) for x in range(5, 700, 100)]
    assert all(labels.paint("dog 97%", box, (255, 0, 0)) for box in boxes)
    assert all(labels.paint("dog 97%", (300, 250, 500, 450), (0, 255, 0)) for _ in range(10))


def test_a_name_goes_beside_a_small_box_rather_than_over_it() -> None:
    picture = np.zeros((300, 300, 3), np.uint8)
    one, above = (100, 100, 130, 130), (100, 84, 130, 98)
    Labels(picture, [one, above]).paint("dog", one, (255, 255, 255))
    assert not picture[84:99, 100:131].any() and not picture[100:131, 100:131].any() and picture.any()


@pytest.mark.parametrize(
    ("size", "row", "width"), [((64, 64), 10, 1), ((480, 640), 15, 2), ((3000, 4000), 94, 10)]
)
def test_text_and_lines_grow_with_the_picture(size: tuple[int, int], row: int, width: int) -> None:
    picture = np.zeros((*size, 3), np.uint8)
    assert text_row(picture) == row and line_width(picture) == width


def test_a_mask_is_filled_and_lets_the_picture_through() -> None:
    mask = np.zeros((90, 120), bool)
    mask[20:60, 30:80] = True
    picture = np.full((90, 120, 3), 100, np.uint8)
    found = detections([[30, 20, 80, 60]], [2], (90, 120), masks=EncodedMasks((encode(mask),), (90, 120)))
    drawn = found.draw(picture)
    inside = drawn[25:55, 35:75].astype(float)
    assert np.abs(inside - (65 + 0.35 * np.array(colour(2)))).max() <= 1
    assert (drawn[62:] == 100).all() and (drawn[:, 82:] == 100)[25:].all()


def test_keypoints_have_sides_and_unseen_ones_are_left_out() -> None:
    names = ["left_eye", "right_eye", "nose", "left_hip", "right_hip"]
    classes = ClassMap(("person",), (1,), {"names": names, "skeleton": [[0, 1], [2, 3], [1, 4]]})
    points = np.array([[[20, 20, 1], [60, 20, 2], [40, 40, 1], [90, 90, 0], [60, 90, 1]]], np.float32)
    found = Detections(
        "a", np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), classes, (100, 100),
        keypoints=points,
    )  # fmt: skip
    drawn = found.draw(np.zeros((100, 100, 3), np.uint8))
    at = lambda x, y: tuple(drawn[y, x].tolist())  # noqa: E731
    assert at(20, 20) == LEFT and at(60, 20) == RIGHT and at(40, 40) == MIDDLE
    for place, shade in (
        (at(40, 20), MIDDLE),
        (at(60, 55), RIGHT),
    ):  # limbs: of both sides, of the right side
        assert np.abs(np.array(place) / place[0] - np.array(shade) / shade[0]).max() < 0.02 and place[0] > 200
    assert not drawn[85:95, 85:95].any() and not drawn[60:70, 60:].any(2)[:, 5:].any()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 120),
    st.integers(1, 120),
    st.integers(0, 8),
    st.sampled_from([1, 1e2, 1e9]),
)
def test_nothing_breaks_the_drawing(seed: int, height: int, width: int, n: int, reach: float) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height, width, 3), np.uint8)
    before = picture.copy()
    boxes = np.sort(rng.uniform(-reach, 100 + reach, (n, 2, 2)), 1).astype(np.float32).reshape(n, 4)
    codes = tuple(encode(rng.random((height, width)) > 0.5) for _ in range(n))
    found = Detections(
        "a", boxes, np.ones(n, np.float32), rng.integers(0, 3, n), CLASSES, (height, width),
        EncodedMasks(codes, (height, width)), rng.uniform(-reach, reach, (n, 4, 3)).astype(np.float32),
    )  # fmt: skip
    drawn = found.draw(picture)
    assert drawn.shape == before.shape and drawn.dtype == np.uint8 and (picture == before).all()


def batch(count: int = 1, side: int = 100, file: int = 400) -> Pictures:
    """Grey pictures of `side` pixels on a canvas, from files of `file` pixels."""
    to_file = torch.tensor([[[file / side, 0, 0], [0, file / side, 0]]], dtype=torch.float64).expand(
        count, 2, 3
    )
    pixels = torch.full((count, 3, side, side), 0.5)
    return Pictures(
        pixels, [(side, side)] * count, [(file, file)] * count, to_file, [str(i) for i in range(count)]
    )


def target(boxes: list[list[float]], labels: list[int], **more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "box_labels": torch.tensor(labels, dtype=torch.int64),
        **more,
    }


def test_truth_alone_is_in_the_frame_of_the_canvas() -> None:
    mask = torch.zeros(1, 100, 100, dtype=torch.bool)
    mask[:, 20:80, 20:80] = True
    made = draw_batch(batch(), [target([[20, 20, 80, 80]], [1], masks=mask)], CLASSES, tile=200)
    tile = made[6:206, 6:206]
    border = of_colour(tile, colour(1))
    assert border[40, 40:160].all() and border[159, 40:160].all() and border[40:160, 40].all()
    assert np.abs(tile[60:150, 50:150] - (0.65 * 128 + 0.35 * np.array(colour(1)))).max() < 2
    assert (tile[165:] == 128).all() and of_colour(made[206:], INK).any()


def test_results_and_truth_are_in_the_frame_of_the_file() -> None:
    mask = np.zeros((400, 400), bool)
    mask[80:320, 80:320] = True
    found = detections([[80, 80, 320, 320]], [1], (400, 400), masks=EncodedMasks((encode(mask),), (400, 400)))
    truth = target([[80.0, 80, 320, 320], [340, 340, 396, 396]], [1, 0])
    tile = draw_batch(batch(), [truth], CLASSES, [found], tile=200)[6:206, 6:206]
    border = of_colour(tile, colour(1))
    assert border[40, 40:160].all() and border[159, 40:160].all() and border[40:160, 40].all()
    assert np.abs(tile[60:150, 50:150] - (0.65 * 128 + 0.35 * np.array(colour(1)))).max() < 2
    dashes = tile[197, 170:198]  # the missed truth's lower border
    assert of_colour(dashes[None], (255, 255, 255)).any() and of_colour(dashes[None], (0, 0, 0)).any()


def test_a_flipped_canvas_is_drawn_flipped() -> None:
    pictures = batch()
    pictures.to_file = torch.tensor([[[-4.0, 0, 400], [0, 4, 0]]], dtype=torch.float64)
    tile = draw_batch(
        pictures, [target([], [])], CLASSES, [detections([[0, 80, 80, 320]], [1], (400, 400))], tile=200
    )
    border = of_colour(tile[6:206, 6:206], colour(1))
    assert border[40:160, 160].all() and border[40:160, 199].all() and not border[:, :100].any()


def caption(found: Detections, truth: dict[str, torch.Tensor]) -> tuple[str, tuple[int, int, int]]:
    said: list[tuple[str, tuple[int, int, int]]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "sheet", lambda _, captions, colours, *__: said.extend(zip(captions, colours)))
        draw_batch(batch(), [truth], CLASSES, [found])
    return said[0]


def test_captions_count_what_is_right() -> None:
    box, other = [10.0, 10, 110, 110], [200.0, 200, 300, 300]
    assert caption(detections([box], [0], (400, 400)), target([box], [0])) == (
        "1 found, 0 missed, 0 false",
        GREEN,
    )
    assert caption(detections([], [], (400, 400)), target([], [])) == ("0 found, 0 missed, 0 false", GREEN)
    assert caption(detections([box], [1], (400, 400)), target([box], [0])) == (
        "0 found, 1 missed, 1 false",
        RED,
    )
    found = detections([box, box, other], [0, 0, 2], (400, 400))
    assert caption(found, target([box, other], [0, 1])) == ("1 found, 1 missed, 2 false", INK)
    weak = Detections("a", found.boxes, found.scores / 3, found.labels, CLASSES, (400, 400))
    assert caption(weak, target([box], [0])) == ("0 found, 1 missed, 0 false", RED)


def test_a_crowd_is_neither_missed_nor_found_but_excuses_many() -> None:
    crowd = target([[0.0, 0, 100, 100], [200, 0, 300, 100]], [0, 0], crowd=torch.tensor([True, False]))
    found = detections([[0, 0, 40, 40], [50, 50, 90, 90], [80, 80, 160, 160]], [0, 0, 0], (400, 400))
    right, seen, many = judge(found, crowd)
    assert right.tolist() == [True, True, False] and not seen.any() and many.tolist() == [True, False]
    beside = target([[0.0, 0, 100, 100], [10, 10, 30, 40]], [0, 0], crowd=torch.tensor([True, False]))
    right, seen, _ = judge(detections([[10, 10, 30, 30]], [0], (400, 400)), beside)
    assert right.all() and seen.tolist() == [False, True]  # an object before the crowd that it stands in


def test_names_are_counted_the_most_frequent_first() -> None:
    assert count_names(["dog", "person", "person"]) == "2 person, 1 dog" and count_names([]) == "no objects"


def test_an_empty_batch_is_an_empty_sheet() -> None:
    assert (draw_batch(batch(0), [], CLASSES, tile=64) == 250).all()
