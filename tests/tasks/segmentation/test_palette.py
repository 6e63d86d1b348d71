import numpy as np

from retinue.datasets.targets import ClassMap
from retinue.tasks.segmentation.palette import BACKGROUND, VOID, as_seen, colours_of, palette


def smallest(seen: np.ndarray) -> float:
    """Distance of the nearest two of colours (n, 3)."""
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    return float((apart + 1e3 * np.eye(len(seen))).min())


def test_the_first_colours_are_far_apart_also_for_the_colour_blind() -> None:
    for count, usual, blind in ((7, 26, 17), (11, 26, 17), (21, 26, 12), (40, 18, 8)):
        seen = as_seen(palette(count))
        assert smallest(seen[:, 0]) > usual
        assert smallest(seen[:, 1]) > blind and smallest(seen[:, 2]) > blind


def test_a_class_keeps_its_colour_however_many_there_are() -> None:
    colours = palette(255)
    assert colours.dtype == np.uint8 and colours.shape == (255, 3)
    assert len(np.unique(colours, axis=0)) == 255
    for count in (0, 1, 7, 8, 100):
        assert (palette(count) == colours[:count]).all()
    assert (palette(300)[255:] == colours[:45]).all()
    assert colours[7:10].tolist() == [[105, 75, 30], [240, 195, 150], [150, 135, 255]]


def test_no_class_looks_like_background_or_void() -> None:
    seen = as_seen(np.concatenate([np.array([BACKGROUND, VOID], np.uint8), palette(40)]))[:, 0]
    apart = np.linalg.norm(seen[:2, None] - seen[None, 2:], axis=2)
    assert apart.min() > 20


def test_only_a_first_class_called_background_is_grey() -> None:
    assert colours_of(ClassMap(("background", "cat"))).tolist() == [list(BACKGROUND), palette(1)[0].tolist()]
    assert (colours_of(ClassMap(("sky", "background"))) == palette(2)).all()
    assert colours_of(ClassMap(())).shape == (0, 3)


def test_eyes_of_the_usual_kind_see_what_there_is() -> None:
    seen = as_seen(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], np.uint8))
    np.testing.assert_allclose(seen[0], [[100, 0, 0]] * 3, atol=0.5)  # white is white to all
    np.testing.assert_allclose(seen[2, 0], [53.2, 80.1, 67.2], atol=0.3)
    assert abs(seen[2, 1, 1]) < 15  # without red cones there is no red
