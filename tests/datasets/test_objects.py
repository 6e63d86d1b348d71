"""Pictures with objects: boxes cleaned once and named, all eight EXIF orientations, and memory that workers share."""

import json
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinue.datasets import coco
from retinue.datasets.annotations import Annotations
from retinue.datasets.box_checks import SYSTEMATIC, clean_boxes, duplicates, suspicions
from retinue.datasets.objects import ObjectPictures, divided
from retinue.datasets.pictures import orient
from retinue.datasets.segments import Segments
from retinue.datasets.targets import ClassMap, DataError
from retinue.tools.loader import Loader, View

NAN, INF = float("nan"), float("inf")
CLASSES = ClassMap(("ant", "bee"))


def picture(path: Path, size: tuple[int, int] = (30, 20)) -> None:
    """A picture of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.name), 1, 2)).save(path)


def annotations(paths: list[str], boxes: list[list[list[float]]], **more: object) -> Annotations:
    """Boxes by picture, all of class 0 unless `labels` says otherwise."""
    flat = np.array([box for own in boxes for box in own], np.float64).reshape(-1, 4)
    offsets = np.cumsum([0, *map(len, boxes)], dtype=np.int64)
    labels = np.array(more.pop("labels", np.zeros(len(flat))), np.int64)
    return Annotations(np.array(paths, np.bytes_), offsets, flat, labels, **more)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    return tmp_path


CLEANED = [
    ([0, 0, 30, 20], [0, 0, 30, 20], ""),
    ([1.5, 2, 3.25, 4], [1.5, 2, 3.25, 4], ""),
    ([-1, -0.5, 31, 20.9], [0, 0, 30, 20], ""),
    ([-1.1, 0, 5, 5], [0, 0, 5, 5], "out-of-frame box"),
    ([0, 0, 1e308, 5], [0, 0, 30, 5], "out-of-frame box"),
    ([5, 5, 5, 9], None, "degenerate box"),
    ([5, 5, 4, 9], None, "degenerate box"),
    ([9, 9, 2, 2], None, "degenerate box"),
    ([30, 0, 40, 9], None, "box outside"),
    ([-9, 0, -3, 9], None, "box outside"),
    ([29.9999999, 0, 40, 9], None, "box outside"),
    ([NAN, 0, 4, 9], None, "NaN box"),
    ([0, 0, INF, 9], None, "NaN box"),
    ([-INF, 0, 4, 9], None, "NaN box"),
]


@pytest.mark.parametrize(("box", "left", "kind"), CLEANED)
def test_clean_boxes(box: list[float], left: list[float] | None, kind: str) -> None:
    boxes, kept, faults = clean_boxes(np.array([box]), np.array([[20, 30]]))
    assert faults == ({0: kind} if kind else {})
    assert kept.tolist() == [left is not None]
    assert left is None or boxes.tolist() == [left]


def test_clean_boxes_of_nothing() -> None:
    boxes, kept, faults = clean_boxes(np.zeros((0, 4)), np.zeros((0, 2)))
    assert boxes.shape == (0, 4) and kept.shape == (0,) and faults == {}


def test_duplicates_and_their_first() -> None:
    boxes = np.array([[1, 1, 2, 2], [0, 0, 9, 9], [1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2]], float)
    labels, pictures = np.array([0, 0, 0, 1, 0]), np.array([0, 0, 0, 0, 1])
    assert list(duplicates(boxes, labels, pictures)) == [(2, 0)]
    assert list(duplicates(np.zeros((0, 4)), labels[:0], pictures[:0])) == []


def test_suspicions() -> None:
    sizes = np.full((SYSTEMATIC, 2), 10)
    short = np.tile([2.0, 3.0, 9.0, 8.0], (SYSTEMATIC, 1))
    (last,) = suspicions("d", short, sizes, CLASSES)
    assert last.kind == "off by one?" and "x2 = width - 1" in last.value
    reaches = short.copy()
    reaches[0, 2] = 10
    assert list(suspicions("d", reaches, sizes, CLASSES)) == []
    assert list(suspicions("d", short[1:], sizes[1:], CLASSES)) == []
    (first,) = suspicions("d", np.tile([1.0, 3.0, 8.0, 8.0], (SYSTEMATIC, 1)), sizes, CLASSES)
    assert "x1 = 1" in first.value
    (named,) = suspicions("d", short[:0], sizes[:0], ClassMap(("N/A", "ant"), (0, 1)))
    assert named.kind == "background class" and "'N/A' (id 0)" in named.value


def test_samples_and_counts(root: Path) -> None:
    data = ObjectPictures(
        root,
        "train",
        annotations(
            ["a.png", "b.png", "c.png"],
            [[[1, 2, 5, 6], [0, 0, 9, 9]], [], [[3, 3, 4, 4]]],
            labels=[1, 0, 1],
            crowd=np.array([False, True, False]),
            area=np.array([16.0, 80, 1]),
            keypoints=np.arange(18, dtype=float).reshape(3, 2, 3),
            image_ids=np.array([5, 7, 11]),
        ),
        CLASSES,
    )
    assert data.keys == {"boxes", "box_labels", "crowd", "area", "keypoints"}
    assert len(data) == 3 and data.empty == 1 and data.class_counts().tolist() == [1, 2]
    assert [data.image_id(i) for i in range(3)] == [5, 7, 11]
    targets = data[0].targets
    assert targets["boxes"].dtype == np.float32 and targets["boxes"].tolist() == [[1, 2, 5, 6], [0, 0, 9, 9]]
    assert targets["box_labels"].tolist() == [1, 0] and targets["crowd"].tolist() == [False, True]
    assert targets["area"].tolist() == [16, 80] and targets["keypoints"][1].tolist() == [
        [6, 7, 8],
        [9, 10, 11],
    ]
    empty = data[1].targets
    assert empty["boxes"].shape == (0, 4) and empty["keypoints"].shape == (0, 2, 3)
    assert all(len(value) == 0 for value in empty.values())
    assert data[-1].id == "c.png"
    with pytest.raises(IndexError):
        data[3]
    assert data.with_keys({"boxes", "masks"})[0].targets.keys() == {"boxes"}
    assert data.keys == data[0].targets.keys()
    part = data.select(np.array([2, 0]))
    assert [part.id(i) for i in range(2)] == ["c.png", "a.png"] and part.annotations.labels.tolist() == [
        1,
        1,
        0,
    ]
    assert part.image_id(0) == 11 and part[1].targets["boxes"].tolist() == targets["boxes"].tolist()


def test_what_cannot_be_used_is_named_and_takes_all_that_is_its_own_with_it(root: Path) -> None:
    own = Segments.of([[[1, 1, 5, 1, 5, 5]], [[2, 2, 9, 2, 9, 9]], {"size": [5, 5], "counts": [25]}])
    data = ObjectPictures(
        root,
        "train",
        annotations(
            ["gone.png", "a.png"],
            [[[0, 0, 1, 1]], [[1, 1, 1, 5], [2, 2, 9, 9], [3, 3, 4, 4]]],
            object_ids=np.array([1, 20, 30, 40]),
            segments=Segments.of([None, *(own.written(i) for i in range(3))]),
        ),
        CLASSES,
    )
    assert [data.id(i) for i in range(len(data))] == ["a.png"]
    assert [(path.name, why.split(";")[0]) for path, why in data.skipped] == [
        ("gone.png", "there is no such file")
    ]
    found = {problem.kind: problem for problem in data.problems()}
    assert found.keys() == {"degenerate box", "outline of another size"}
    assert found["degenerate box"].file == str(root / "a.png")
    assert found["degenerate box"].value == "annotation 20 [1.0, 1.0, 1.0, 5.0] in 30x20"
    assert data.annotations.boxes.tolist() == [[2, 2, 9, 9]]
    assert data[0].targets["masks"].shape == (1, 20, 30)
    assert (data[0].targets["masks"][0] == own.decode([1], 20, 30)[0]).all()
    assert "1 degenerate box" in data.remarks[0]


def test_another_size_is_a_named_skip(root: Path) -> None:
    sizes = np.array([[40, 60], [20, 30], [0, 0]], np.int32)
    data = ObjectPictures(
        root, "val", annotations(["a.png", "b.png", "c.png"], [[], [], []], sizes=sizes), CLASSES
    )
    assert [data.id(i) for i in range(len(data))] == ["b.png", "c.png"]
    (problem,) = data.problems()
    assert (problem.level, problem.kind, Path(problem.file).name) == ("error", "size mismatch", "a.png")
    assert problem.value == "the annotation states 60x40, the file has 30x20"
    with pytest.raises(DataError, match="no picture of split 'val' can be used"):
        ObjectPictures(root, "val", annotations(["a.png"], [[]], sizes=sizes[:1]), CLASSES)


def test_a_picture_that_changed_since_is_refused(root: Path) -> None:
    data = ObjectPictures(root, "train", annotations(["a.png"], [[[1, 1, 20, 20]]]), CLASSES)
    picture(root / "a.png", (10, 10))
    with pytest.raises(DataError, match="is 10x10 now, was 30x20"):
        data[0]


def test_fractions_become_pixels(root: Path) -> None:
    keypoints = np.array([[[0.5, 0.5, 2.0], [0.0, 0.0, 0.0]]])
    outline = Segments.of([[[0.0, 0.0, 0.5, 0.0, 0.5, 0.5]]])
    own = annotations(["a.png"], [[[0.1, 0.1, 0.5, 0.5]]], keypoints=keypoints, segments=outline)
    data = ObjectPictures(root, "train", own, CLASSES, fractions=True)
    assert np.allclose(data.annotations.boxes, [[3, 2, 15, 10]])
    assert data[0].targets["keypoints"].tolist() == [[[15, 10, 2], [0, 0, 0]]]
    assert data.annotations.segments is not None
    assert data.annotations.segments.written(0) == [[0, 0, 15, 0, 15, 10]]


def test_classes_are_matched_by_name_never_by_a_number_alone(root: Path) -> None:
    own = annotations(["a.png"], [[[0, 0, 5, 5], [1, 1, 6, 6]]], labels=[0, 1])
    data = ObjectPictures(root, "train", own, ClassMap(("ant", "bee"), (0, 1)))
    shifted = ClassMap(("cat", "ant", "bee"), (0, 1, 2))
    assert data.with_classes(shifted).annotations.labels.tolist() == [1, 2]
    assert data.annotations.labels.tolist() == [0, 1]
    with pytest.raises(
        DataError, match=r"the classes \['bee'\] of split 'train' are not among \['ant', 'wasp'\]"
    ):
        data.with_classes(ClassMap(("ant", "wasp"), (0, 1)))
    words = ObjectPictures(root, "train", own, ClassMap(("ant", "bee"), ("n01", "n02")))
    assert words.with_classes(ClassMap(("b", "a"), ("n02", "n01"))).annotations.labels.tolist() == [1, 0]


def test_divided(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(10)]
    for name in names:
        picture(tmp_path / name)
    parts = divided(ObjectPictures(tmp_path, "all", annotations(names, [[]] * 10), CLASSES))
    assert [(name, len(part), part.split) for name, part in parts.items()] == [
        ("train", 8, "train"),
        ("val", 2, "val"),
    ]
    ids = [part.id(i) for part in parts.values() for i in range(len(part))]
    assert sorted(ids) == names


# EXIF: one bright block in a dark picture, 30 x 20 when upright


BLOCK = (4, 3, 16, 9)
"""x1 y1 x2 y2 of the upright block."""


def stored(orientation: int) -> np.ndarray:
    """The pixels to store so that a reader who obeys the orientation sees the upright picture."""
    upright = np.zeros((20, 30, 3), np.uint8)
    x1, y1, x2, y2 = BLOCK
    upright[y1:y2, x1:x2] = 255
    for guess in range(1, 9):  # one of the eight undoes it
        if (orient(orient(upright, guess), orientation).shape == upright.shape) and (
            orient(orient(upright, guess), orientation) == upright
        ).all():
            return np.ascontiguousarray(orient(upright, guess))
    raise AssertionError


def block_in(image: np.ndarray) -> list[float]:
    rows, columns = np.flatnonzero(image.any((1, 2))), np.flatnonzero(image.any((0, 2)))
    return [float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]


@pytest.mark.parametrize("frame", ["upright", "stored"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_objects_land_where_they_are_for_every_orientation(
    tmp_path: Path, orientation: int, frame: str
) -> None:
    pixels = stored(orientation)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    turned = frame == "stored" and orientation >= 5  # the others cannot be told apart by their size
    image = pixels if turned else np.ascontiguousarray(orient(pixels, orientation))
    height, width = image.shape[:2]
    x1, y1, x2, y2 = block_in(image)
    data = ObjectPictures(
        tmp_path,
        "train",
        annotations(
            ["a.png"],
            [[[x1, y1, x2, y2]]],
            segments=Segments.of([[[x1, y1, x2, y1, x2, y2, x1, y2]]]),
            keypoints=np.array([[[x1 + 0.5, y1 + 0.5, 2], [0, 0, 0]]]),
            sizes=np.array([[height, width]], np.int32),
        ),
        CLASSES,
    )
    sample = data[0]
    assert sample.image.shape[:2] == sample.file_size == (20, 30)
    assert sample.targets["boxes"].tolist() == [list(BLOCK)] == [block_in(sample.image)]
    assert (sample.targets["masks"][0] == sample.image.any(2)).all()
    x, y, visible = sample.targets["keypoints"][0, 0]
    assert visible == 2 and sample.image[int(y), int(x)].all()
    corners = {
        (x + dx, y + dy) for x in BLOCK[::2] for y in BLOCK[1::2] for dx in (-0.5, 0.5) for dy in (-0.5, 0.5)
    }
    assert (x, y) in corners
    assert sample.targets["keypoints"][0, 1].tolist() == [0, 0, 0]
    kinds = [problem.kind for problem in data.problems()]
    assert kinds == ["EXIF orientation"] * turned


# Memory


def memory(pids: list[int]) -> dict[str, int]:
    """Kilobytes of these processes: resident, and anonymous with shared pages divided among those that share them.

    A plain proportional size would also count how many strangers have torch's files mapped.
    """
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return {
        name: sum(int(line.split()[1]) for line in lines if line.startswith(name))
        for name in ("Rss:", "Pss_Anon:")
    }


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_over_three_epochs_of_a_hundred_thousand_annotations(tmp_path: Path) -> None:
    pictures, each = 2000, 50
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    picture(tmp_path / "images/0.png", (64, 48))
    for i in range(1, pictures):
        (tmp_path / f"images/{i}.png").hardlink_to(tmp_path / "images/0.png")
    corners = random.uniform(0, 30, (pictures * each, 2)).round(2)
    objects = [
        {
            "id": i + 1,
            "image_id": i // each,
            "category_id": i % 5,
            "bbox": [x, y, 12.5, 10.5],
            "segmentation": [[x, y, x + 12.5, y, x + 12.5, y + 10.5]],
        }
        for i, (x, y) in enumerate(corners.tolist())
    ]
    value = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(pictures)],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(5)],
        "annotations": objects,
    }
    (tmp_path / "train.json").write_text(json.dumps(value))
    del objects, value
    data = coco.splits(str(tmp_path / "train.json"))["train"]
    assert len(data.annotations.labels) == pictures * each
    loader = Loader(View(data, lambda sample, *_: sample, data.keys), workers=4)
    used = []
    for epoch in range(3):
        order = np.random.default_rng(epoch).permutation(pictures).reshape(-1, 20)
        batches = loader.batches([[(epoch, int(i)) for i in batch] for batch in order])
        seen = sum(len(target["boxes"]) for _, targets in batches for target in targets)
        assert seen == pictures * each
        workers = [process.pid for process in multiprocessing.active_children() if process.pid]
        assert len(workers) == 4
        used.append(memory(workers))
    print(f"workers' memory after each epoch, kB: {used}", file=sys.stderr)
    assert all(used[0].values())
    assert all(used[2][name] <= 1.05 * used[0][name] for name in used[0])
