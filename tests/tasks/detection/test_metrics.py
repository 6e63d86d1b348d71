"""The metric: exact in any order and split, perfect where predictions are, and plain words where they are not."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.detection.masks import EncodedMasks, encode
from retinue.tasks.detection.metrics import DetectionMetric
from retinue.tasks.detection.results import Detections

CLASSES = ClassMap(("cat", "dog", "cow"), (3, 17, 18))
PERSON = ClassMap(("person",), keypoints={"names": ["a", "b"], "sigmas": [0.05, 0.1]})
SIZE = (100, 120)


def world(count: int = 12, seed: int = 0, keypoints: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """Pictures with zero to four objects of the first two classes, none overlapping another."""
    rng = np.random.default_rng(seed)
    targets = {}
    for i in range(count):
        places = rng.permutation(4)[: i % 5]
        corner = np.stack([places % 2 * 60, places // 2 * 50], 1) + rng.integers(0, 8, (len(places), 2))
        boxes = np.concatenate([corner, corner + rng.integers(10, 40, (len(places), 2))], 1).astype(
            np.float32
        )
        masks = np.zeros((len(boxes), *SIZE), bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int)):
            mask[y1:y2, x1:x2] = True
        labels = rng.integers(0, 1 if keypoints else 2, len(boxes))
        targets[f"p{i}.jpg"] = {"boxes": boxes, "box_labels": labels, "masks": masks}
        if keypoints:
            points = np.stack([boxes[:, :2], boxes[:, 2:]], 1)
            targets[f"p{i}.jpg"]["keypoints"] = np.concatenate([points, np.full((len(boxes), 2, 1), 2)], 2)
    return targets


def found(
    id: str,
    target: dict[str, np.ndarray],
    move: Callable[[np.ndarray], np.ndarray] = lambda boxes: boxes,
    shift: int = 0,
    classes: ClassMap = CLASSES,
) -> Detections:
    n = len(target["boxes"])
    scores = np.linspace(0.9, 0.5, n, dtype=np.float32)
    masks = EncodedMasks(tuple(encode(mask) for mask in target["masks"]), SIZE)
    boxes = move(target["boxes"]).astype(np.float32).reshape(-1, 4)
    labels = target["box_labels"] + shift
    return Detections(id, boxes, scores, labels, classes, SIZE, masks, target.get("keypoints"))


def judged(targets: Any, kinds: Any = ("box",), classes: ClassMap = CLASSES, **how: Any) -> DetectionMetric:
    metric = DetectionMetric(classes, kinds)
    for id, target in targets.items():
        metric.update([id], [found(id, target, classes=classes, **how)], [target])
    return metric


def test_perfect_predictions_are_perfect_in_boxes_and_masks() -> None:
    values = judged(world(), ("box", "mask")).compute()
    assert next(iter(values)) == "box/AP" and list(values)[12] == "mask/AP"
    for kind in ("box", "mask"):
        assert values[f"{kind}/AP"] == values[f"{kind}/AP50"] == values[f"{kind}/AR100"] == 1
        assert values[f"{kind}/AP/cat"] == values[f"{kind}/AP/dog"] == 1
        assert np.isnan(values[f"{kind}/AP/cow"]) and np.isnan(values[f"{kind}/APl"])


def test_perfect_keypoints() -> None:
    values = judged(world(keypoints=True), ("box", "keypoints"), PERSON).compute()
    assert (
        next(iter(values)) == "box/AP" and list(values)[12] == "keypoints/AP" and len(values) == 12 + 10 + 2
    )
    assert values["box/AP"] == values["keypoints/AP"] == values["keypoints/AR"] == 1


@pytest.mark.parametrize("ids", [(0, 1, 2), (1, 2, 3), (3, 17, 90), ("a", "b", "c")])
def test_perfect_whatever_the_original_ids_are(ids: tuple[int | str, ...]) -> None:
    classes = ClassMap(("cat", "dog", "cow"), ids)
    assert judged(world(), classes=classes).compute()["box/AP"] == 1


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_order_and_split_do_not_matter(random: Any, ranks: int) -> None:
    rng = np.random.default_rng(1)
    targets = world(20, seed=3)
    results = {id: found(id, t, lambda b: b + rng.normal(0, 4, b.shape)) for id, t in targets.items()}
    whole = DetectionMetric(CLASSES, ("box", "mask"))
    whole.update(list(targets), list(results.values()), list(targets.values()))
    ids = list(targets)
    random.shuffle(ids)
    parts = [DetectionMetric(CLASSES, ("box", "mask")) for _ in range(ranks)]
    for k, id in enumerate(ids):
        parts[k % ranks].update([id], [results[id]], [targets[id]])
    joined = DetectionMetric(CLASSES, ("box", "mask"))
    joined.compute()
    for part in parts:
        joined.merge(pickle.loads(pickle.dumps(part)))
    assert joined.compute() == pytest.approx(whole.compute(), abs=0, nan_ok=True)
    assert 0 < joined.compute()["box/AP"] < 1


def test_a_picture_is_taken_in_once() -> None:
    metric = judged(world(3))
    with pytest.raises(ValueError, match=r"'p1\.jpg' was evaluated before"):
        metric.update(["p1.jpg"], [found("p1.jpg", world(3)["p1.jpg"])], [world(3)["p1.jpg"]])
    with pytest.raises(ValueError, match="evaluated twice"):
        metric.merge(judged(world(2)))


def test_tensors_are_taken_like_arrays() -> None:
    targets = world(8)
    tensors = {
        id: {key: torch.from_numpy(value) for key, value in target.items()} for id, target in targets.items()
    }
    metric = DetectionMetric(CLASSES, ("box", "mask"))
    metric.update(list(targets), [found(id, t) for id, t in targets.items()], list(tensors.values()))
    assert metric.compute() == pytest.approx(judged(targets, ("box", "mask")).compute(), nan_ok=True)


def test_nothing_found_is_zero_and_nothing_true_is_not_a_number() -> None:
    metric = DetectionMetric(CLASSES, ("box", "mask"))
    assert np.isnan(metric.compute()["box/AP"])
    for id, target in world().items():
        metric.update([id], [Detections.none(id, CLASSES, SIZE)], [target])
    values = metric.compute()
    assert values["box/AP"] == values["mask/AP"] == 0 and np.isnan(values["box/APl"])
    crowds = {id: {**target, "crowd": np.ones(len(target["boxes"]), bool)} for id, target in world().items()}
    assert np.isnan(judged(crowds).compute()["box/AP"])


def test_area_is_the_annotations_own_else_the_masks_else_the_boxs() -> None:
    box = np.array([[0, 0, 40, 40]], np.float32)  # 1,600 pixels: medium
    mask = np.zeros((1, *SIZE), bool)
    mask[:, :20, :20] = True  # 400: small
    target = {"boxes": box, "box_labels": np.array([0]), "masks": mask}
    for extra, kinds, size in (
        ({}, ("box",), "m"),
        ({}, ("box", "mask"), "s"),
        ({"area": np.array([1e4], np.float32)}, ("box", "mask"), "l"),
    ):
        values = judged({"a": {**target, **extra}}, kinds).compute()
        assert [key for key in ("s", "m", "l") if values[f"box/AP{key}"] == 1] == [size]


def test_masks_are_kept_as_codes_only() -> None:
    metric = judged(world(30), ("box", "mask"))
    assert len(pickle.dumps(metric)) < 30 * SIZE[0] * SIZE[1] / 5


def test_a_detection_on_a_picture_without_objects_counts_against() -> None:
    targets = world()
    metric = judged(targets)
    box = np.array([[0, 0, 9, 9]], np.float32)
    wrong = Detections("empty", box, np.ones(1, np.float32), np.zeros(1, np.int64), CLASSES, SIZE)
    metric.update(["empty"], [wrong], [{"boxes": np.zeros((0, 4)), "box_labels": np.zeros(0, np.int64)}])
    assert metric.compute()["box/AP/cat"] < 1 == metric.compute()["box/AP/dog"]


def test_what_does_not_fit_is_refused_with_the_pictures_name() -> None:
    target = world()["p3.jpg"]
    for change, kinds, message in (
        ({"box_labels": np.full(3, 3)}, ("box",), r"a\.jpg: truth labels \[3\] do not fit the 3 classes"),
        ({"masks": None}, ("mask",), r"a\.jpg: masks are judged, but the truth has none"),
    ):
        changed = {key: value for key, value in {**target, **change}.items() if value is not None}
        with pytest.raises(DataError, match=message):
            DetectionMetric(CLASSES, kinds).update(["a.jpg"], [found("a.jpg", target)], [changed])
    result = found("a.jpg", target)
    result.scores[0] = np.nan  # after the result's own check
    with pytest.raises(DataError, match=r"a\.jpg: a detection's scores nan"):
        DetectionMetric(CLASSES).update(["a.jpg"], [result], [target])
    with pytest.raises(DataError, match="the truth has none"):
        DetectionMetric(PERSON, ("keypoints",)).update(["a"], [Detections.none("a", PERSON, SIZE)], [target])
    with pytest.raises(ValueError, match="kinds"):
        DetectionMetric(CLASSES, ("boxes",))
    with pytest.raises(DataError, match="3 keypoints without OKS sigmas"):
        DetectionMetric(ClassMap(("x",), keypoints={"names": ["a", "b", "c"]}), ("keypoints",))


def test_the_curves_around_ap_read_the_same_boxes() -> None:
    metric = judged(world())
    boxes = metric.judged()
    assert boxes.picture_ids == tuple(sorted(metric.pictures))
    truth, results = metric.flat()
    assert len(boxes.truth_boxes) == len(truth) and len(boxes.boxes) == len(results)
    np.testing.assert_array_equal(boxes.boxes[:, 2:] - boxes.boxes[:, :2], results.xywh[:, 2:])


# Words where AP is low


def xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def centred(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


PARTS = np.array([120, 100, 120, 100])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"shift": 1}, ["one too high: moved by -1, AP50 would be 1.00"]),
        ({"move": xywh}, ["are x y width height where x1 y1 x2 y2 is expected:"]),
        ({"move": centred}, ["are centre x, centre y, width, height where x1 y1 x2 y2 is expected"]),
        ({"move": lambda b: b[:, [1, 0, 3, 2]]}, ["have x and y swapped"]),
        ({"move": lambda b: b / PARTS}, ["parts of the picture's width and height, not pixels"]),
        ({"move": lambda b: b * PARTS}, ["were multiplied by the picture's width and height"]),
        ({"move": lambda b: b / 2}, ["of a picture of half the size"]),
        ({"move": lambda b: b * 2}, ["of a picture of twice the size"]),
        ({"move": lambda b: centred(b) / PARTS}, ["centre x, centre y", "parts of the picture"]),
        ({"move": xywh, "shift": 1}, ["x y width height", "one too high"]),
        ({"move": lambda b: b + 300}, ["no simple mistake explains it"]),
    ],
)
def test_a_low_ap_is_explained(how: Any, words: list[str]) -> None:
    metric = judged(world(30), **how)
    assert metric.compute()["box/AP50"] < 0.5
    text = " ".join(metric.diagnose())
    assert all(word in text for word in words), text


def test_labels_without_order_are_told_from_labels_that_are_shifted() -> None:
    targets = world(30)
    other = {id: {**t, "box_labels": 1 - t["box_labels"]} for id, t in targets.items()}
    metric = DetectionMetric(CLASSES)
    for id in targets:
        metric.update([id], [found(id, other[id])], [targets[id]])
    assert any("classes wrong: without regard to classes AP50 would be 1.00" in s for s in metric.diagnose())
    alone = DetectionMetric(CLASSES)
    for id, target in targets.items():
        labels = {**target, "box_labels": np.full(len(target["boxes"]), 2)}
        alone.update([id], [found(id, labels)], [target])
    assert alone.diagnose()[0] == "No class is in both: predicted are cow, true are cat, dog."


def test_nothing_is_said_of_good_results_and_the_obvious_of_empty_ones() -> None:
    rng = np.random.default_rng(0)
    assert judged(world()).diagnose() == []
    fair = judged(world(40), move=lambda b: b + rng.normal(0, 3, b.shape))
    assert fair.diagnose() == []
    empty = DetectionMetric(CLASSES)
    assert "no truth" in empty.diagnose()[0]
    for id, target in world().items():
        empty.update([id], [Detections.none(id, CLASSES, SIZE)], [target])
    assert "no predictions at all" in empty.diagnose()[0]
    apart = DetectionMetric(CLASSES)
    target = world()["p4.jpg"]
    nothing = {"boxes": np.zeros((0, 4)), "box_labels": np.zeros(0, np.int64)}
    apart.update(["a", "b"], [found("a", target), Detections.none("b", CLASSES, SIZE)], [nothing, target])
    assert "No picture has both" in apart.diagnose()[0]


def test_notes_name_what_there_is_no_truth_of() -> None:
    notes = judged(world()).notes()
    assert notes == [
        "n/a: no ground truth of this size: box/APl, box/ARl.",
        "n/a: no ground truth of the classes cow.",
    ]
    assert DetectionMetric(CLASSES).notes() == ["n/a: there is no ground truth."]


@pytest.mark.slow
def test_five_thousand_pictures_in_two_seconds() -> None:
    import time

    rng = np.random.default_rng(0)
    classes = ClassMap(tuple(f"c{i}" for i in range(80)))
    metric = DetectionMetric(classes)
    counts = np.bincount(rng.integers(0, 5000, 36_781), minlength=5000)
    for i, n in enumerate(counts):
        corner = rng.uniform(0, 500, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 140, (n, 2))], 1).astype(np.float32)
        target = {"boxes": boxes, "box_labels": rng.integers(0, 80, n)}
        near = (boxes + rng.normal(0, 4, boxes.shape)).astype(np.float32)
        scores = np.sort(rng.random(n).astype(np.float32))[::-1]
        result = Detections(str(i), near, scores, target["box_labels"], classes, (640, 640))
        metric.update([str(i)], [result], [target])
    start = time.perf_counter()
    assert 0 < metric.compute()["box/AP"] < 1
    assert time.perf_counter() - start < 2


def test_an_object_without_an_outline_is_no_miss_where_masks_are_judged() -> None:
    targets = world()
    perfect = judged(targets, ("box", "mask"))
    for target in targets.values():
        target["masks"][1:] = False
    metric = DetectionMetric(CLASSES, ("box", "mask"))
    for id, target in targets.items():
        metric.update([id], [found(id, world()[id])], [target])
    values = metric.compute()
    assert values["box/AP"] == values["mask/AP"] == perfect.compute()["mask/AP"] == 1
