"""Anchors from data: k-means by overlap."""

from types import SimpleNamespace

import numpy as np
import pytest

from retinue.datasets.annotations import Annotations
from retinue.datasets.objects import ObjectPictures
from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import DataError, Sample
from retinue.tasks.detection.anchor_clusters import box_sizes, cluster, shape_iou


def test_iou_of_shapes_by_hand() -> None:
    value = shape_iou(np.array([[2.0, 3.0]]), np.array([[2.0, 3.0], [1.0, 6.0], [4.0, 6.0]]))
    np.testing.assert_allclose(value, [[1, 3 / 9, 6 / 24]])


def test_groups_apart_are_found_and_sorted_by_area() -> None:
    rng = np.random.default_rng(0)
    true = np.array([[0.02, 0.03], [0.2, 0.05], [0.3, 0.4], [0.8, 0.7]])
    sizes = np.concatenate([centre * rng.uniform(0.95, 1.05, (50, 2)) for centre in true])
    found = cluster(rng.permutation(sizes), 4)
    np.testing.assert_allclose(found, true, rtol=0.03)


def test_centres_are_the_means_of_what_is_nearest() -> None:
    sizes = np.random.default_rng(1).uniform(0.01, 1, (500, 2))
    centres = cluster(sizes, 9)
    nearest = shape_iou(sizes, centres).argmax(1)
    np.testing.assert_allclose(centres, [sizes[nearest == i].mean(0) for i in range(9)])
    assert (np.diff(centres.prod(1)) >= 0).all()
    np.testing.assert_array_equal(centres, cluster(sizes, 9))


def test_too_few_different_boxes_are_named() -> None:
    with pytest.raises(
        DataError, match=r"9 anchors need as many different boxes, .* have 2; use anchors=coco"
    ):
        cluster(np.array([[0.1, 0.2], [0.3, 0.3]] * 20 + [[0.0, 0.4]]), 9)


def test_sizes_are_parts_of_the_longer_side_without_crowds() -> None:
    targets = {
        "boxes": np.array([[0, 0, 20, 10], [5, 5, 45, 25], [0, 0, 40, 40]], np.float32),
        "crowd": np.array([False, False, True]),
    }
    pictures = [Sample("a", np.zeros((40, 80, 3), np.uint8), targets)]
    np.testing.assert_allclose(box_sizes(pictures), [[0.25, 0.125], [0.5, 0.25]])
    known = SimpleNamespace(box_sizes=lambda: [[0.5, 0.5]])
    np.testing.assert_array_equal(box_sizes(known), [[0.5, 0.5]])
    sizes = box_sizes(Scenes(2, 64))
    assert sizes.shape[1] == 2 and (sizes > 0).all() and (sizes <= 1).all()


def test_data_with_annotations_know_their_sizes_without_reading_pictures() -> None:
    known = Annotations(
        np.array([b"a", b"b"]), np.array([0, 1, 3]),
        np.array([[0.0, 0, 20, 10], [5, 5, 45, 25], [0, 0, 40, 40]]), np.zeros(3, np.int64),
        crowd=np.array([False, False, True]), sizes=np.array([[40, 80], [100, 50]], np.int32),
    )  # fmt: skip
    sizes = ObjectPictures.box_sizes(SimpleNamespace(annotations=known))  # type: ignore[arg-type]
    np.testing.assert_allclose(sizes, [[0.25, 0.125], [0.4, 0.2]])
    none = SimpleNamespace(annotations=known.keep(np.zeros(3, bool)))
    assert ObjectPictures.box_sizes(none).shape == (0, 2)  # type: ignore[arg-type]
