import cv2
import numpy as np
import pytest

from retinue.datasets.targets import ClassMap
from retinue.tasks.segmentation.metrics import SegmentationMetric
from retinue.tasks.segmentation.plots import draw_per_class, segmentation_plots


def counted(k, seed=0, boundary=True):
    """A metric of k classes that took in something, but nothing of the last one where there are more than two."""
    rng = np.random.default_rng(seed)
    metric = SegmentationMetric(ClassMap(tuple(f"class {i}" for i in range(k))), boundary)
    metric.counts += rng.integers(0, 20, metric.counts.shape)
    metric.counts += 300 * np.eye(k, dtype=np.int64)[..., None]
    if k > 2:
        metric.counts[-1], metric.counts[:, -1] = 0, 0
    return metric


def drawn(path):
    """The picture in a file, after making sure that it is not blank."""
    picture = cv2.imread(str(path))
    assert picture is not None and picture.std() > 5 and min(picture.shape[:2]) > 200
    return picture


def length_of(picture, colour):
    """The longest row of a colour, "#rrggbb", in pixels."""
    bgr = [int(colour[i : i + 2], 16) for i in (5, 3, 1)]
    return (np.abs(picture.astype(int) - bgr).max(-1) < 12).sum(1).max()


@pytest.mark.parametrize(("k", "boundary"), [(2, True), (11, False), (25, True)])
def test_every_plot_of_few_and_many_classes(tmp_path, k, boundary):
    plots = segmentation_plots(counted(k, boundary=boundary))
    assert list(plots) == ["confusion.png", "per_class.png"]
    for name, draw in plots.items():
        draw(str(tmp_path / name))
        drawn(tmp_path / name)


def test_nothing_is_drawn_as_empty(tmp_path):
    for name, draw in segmentation_plots(SegmentationMetric(ClassMap(("cat", "dog")))).items():
        draw(str(tmp_path / name))
        drawn(tmp_path / name)


def test_bars_are_as_long_as_their_values(tmp_path):
    def lengths(iou, accuracy):
        figures = {"miou": np.array([iou, np.nan]), "class_accuracy": np.array([accuracy, np.nan])}
        draw_per_class(figures, np.array([5, 0]), ["cat", "dog"], str(tmp_path / "p.png"))
        picture = drawn(tmp_path / "p.png")
        # the legend's patch is the longest row where there is no bar
        return [length_of(picture[: -picture.shape[0] // 4], colour) for colour in ("#2e7dbe", "#b9d6ec")]

    (long, pale), (short, wide) = lengths(0.8, 0.9), lengths(0.4, 0.8)
    assert long == pytest.approx(2 * short, rel=0.05) and short == pytest.approx(wide, rel=0.1)
    assert pale == pytest.approx(long / 8, rel=0.2)


def test_a_class_that_is_only_predicted_has_a_row_without_an_accuracy(tmp_path):
    figures = {name: np.array([0.5, 0.0]) for name in ("miou", "boundary_iou")}
    figures["class_accuracy"] = np.array([0.7, np.nan])
    draw_per_class(figures, np.array([9, 0]), ["cat", "dog"], str(tmp_path / "p.png"))
    drawn(tmp_path / "p.png")


@pytest.mark.parametrize("k", [61, pytest.param(255, marks=pytest.mark.slow)])
def test_many_classes_are_shared_over_columns(tmp_path, k):
    sizes = []
    for classes in (2, k):
        values = {"miou": np.arange(classes) / classes, "class_accuracy": np.ones(classes)}
        names = [f"an extraordinarily long class name {i}" for i in range(classes)]
        draw_per_class(values, np.ones(classes), names, str(tmp_path / "p.png"))
        sizes.append(drawn(tmp_path / "p.png").shape[:2])
    (_, narrow), (height, wide) = sizes
    assert wide > 0.9 * narrow * -(-k // 60) and wide < 4000 and height < 2000
