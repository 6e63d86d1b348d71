"""COCO json: the layouts that there are, ids with holes, crowd, keypoints, and real files as pycocotools sees them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from coco_files import TRIANGLE, image, kinds, only, picture, thing, write
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from retinue.datasets.coco import CocoPictures, splits
from retinue.datasets.coco_json import read_coco
from retinue.datasets.coco_keypoints import flip_pairs
from retinue.datasets.formats import open_splits
from retinue.datasets.targets import PERSON_KEYPOINTS, ClassMap, DataError

MINI = Path(__file__).parents[3] / "shared/data/coco_mini"
ANCHOR = Path(__file__).parents[3] / "shared/data/coco_anchor/instances_val2014_100.json"


def test_ids_with_holes_boxes_and_areas(tmp_path: Path) -> None:
    categories = [{"id": 90, "name": "wasp"}, {"id": 3, "name": "ant"}, {"id": 7, "name": "bee"}]
    images = [image(12, "a.png"), image(5, "b.png"), image(9, "c.png")]
    things = [
        thing(0, 5, 90, (1, 2, 3, 4), area=7.5),
        thing(33, 12, 7, (0, 0, 30, 20), iscrowd=1, segmentation={"size": [20, 30], "counts": [0, 600]}),
        thing(4, 5, 3, (2.5, 3.5, 1.25, 2)),
    ]
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    data = splits(str(write(tmp_path / "train.json", images, things, categories)))["train"]
    assert data.classes == ClassMap(("ant", "bee", "wasp"), (3, 7, 90))
    assert [data.id(i) for i in range(3)] == ["a.png", "b.png", "c.png"]
    assert [data.image_id(i) for i in range(3)] == [12, 5, 9]
    assert data.annotations.object_ids is not None and data.annotations.object_ids.tolist() == [33, 0, 4]
    assert data.empty == 1 and kinds(data) == []
    first, second = data[0].targets, data[1].targets
    assert first["crowd"].tolist() == [True] and first["area"].tolist() == [600] and first["masks"].all()
    assert second["boxes"].tolist() == [[1, 2, 4, 6], [2.5, 3.5, 3.75, 5.5]]
    assert second["box_labels"].tolist() == [2, 0] and second["area"].tolist() == [7.5, 2.5]
    assert second["masks"].shape == (2, 20, 30) and not second["masks"].any()


def test_outlines_with_holes_and_without_box_or_area(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8, order="F")
    mask[4:15, 6:20] = 1
    mask[7:9, 10:12] = 0
    code = coco_mask.encode(mask)
    outline = {"size": code["size"], "counts": code["counts"].decode()}
    data = only(tmp_path, thing(bbox=None, segmentation=outline), thing(2, bbox=None, segmentation=TRIANGLE))
    targets = data[0].targets
    assert targets["boxes"].tolist() == [[6, 4, 20, 15], [2, 3, 10, 12]]
    assert (targets["masks"][0] == mask).all()
    assert targets["area"].tolist() == [mask.sum(), targets["masks"][1].sum()]
    assert data.annotations.segments is not None
    assert (
        data.annotations.segments.written(0) == outline and data.annotations.segments.written(1) == TRIANGLE
    )


def test_rings_that_cover_nothing_are_no_boxes(tmp_path: Path) -> None:
    data = only(
        tmp_path, thing(segmentation=[[1, 1, 9, 9], *TRIANGLE, []]), thing(2, segmentation=[[1, 1, 9, 9]])
    )
    assert data.annotations.segments is not None and data.annotations.segments.written(0) == TRIANGLE
    assert kinds(data) == ["malformed outline"]


def test_an_empty_ring_is_no_outline_and_objects_without_one_are_told(tmp_path: Path) -> None:
    boxes = only(tmp_path, thing(segmentation=[[]]), thing(2, bbox=(1, 1, 5, 5), segmentation=[]))
    assert "masks" not in boxes.keys and len(boxes[0].targets["boxes"]) == 2 and not kinds(boxes)
    mixed = only(tmp_path, thing(segmentation=[[]]), thing(2, segmentation=TRIANGLE))
    assert mixed[0].targets["masks"].any((1, 2)).tolist() == [False, True]
    assert "1 of 2 objects have no outline, so their masks are empty" in mixed.remarks


def test_a_name_longer_than_file_names_may_be_is_a_picture_that_is_not_there(tmp_path: Path) -> None:
    data = only(tmp_path, thing(), images=[image(), image(6, "x" * 300 + ".png")])
    assert len(data) == 1 and "there is no such file" in data.skipped[0][1]


LAYOUTS = {
    "coco": (
        "annotations/instances_train2017.json",
        "train2017",
        "annotations/instances_val2017.json",
        "val2017",
    ),
    "images": (
        "annotations/instances_train.json",
        "images/train",
        "annotations/instances_val.json",
        "images/val",
    ),
    "one folder": ("annotations/train.json", "images", "annotations/val.json", "images"),
    "roboflow": ("train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid"),
    "beside": ("train.json", "train", "val.json", "val"),
    "beside with a year": ("train2017.json", "train2017", "val2017.json", "val2017"),
    "inside": ("train.json", "train/images", "val.json", "val/images"),
    "flat": ("train.json", ".", "val.json", "."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str) -> None:
    files, folders = LAYOUTS[layout][::2], LAYOUTS[layout][1::2]
    for name, file, folder in zip(("t.png", "v.png"), files, folders):
        picture(tmp_path / folder / name)
        write(tmp_path / file, [image(name=name)])
    for source in (tmp_path, tmp_path / files[0]):
        found = open_splits(str(source))
        assert list(found) == ["train", "val"] and all(
            isinstance(part, CocoPictures) for part in found.values()
        )
        assert [part[0].id for part in found.values()] == [
            os.path.normpath(f"{folder}/{name}") for name, folder in zip(("t.png", "v.png"), folders)
        ]
    (alone,) = open_splits(str(tmp_path / files[1])).values()
    assert alone.classes == found["val"].classes and len(alone) == 1


def test_a_file_without_split_is_divided(tmp_path: Path) -> None:
    for i in range(10):
        picture(tmp_path / f"images/{i}.png")
    file = write(tmp_path / "result.json", [image(i, f"{i}.png") for i in range(10)], [thing(1, 3)])
    for source in (tmp_path, file):
        assert {name: len(part) for name, part in splits(str(source)).items()} == {"train": 8, "val": 2}


def test_several_for_one_split_are_a_choice(tmp_path: Path) -> None:
    picture(tmp_path / "train/a.png")
    for name in ("train_v1.json", "train_v2.json"):
        write(tmp_path / "annotations" / name)
    with pytest.raises(
        DataError, match=r"2 json files for the split train: .*train_v1.json.*; name one of them"
    ):
        splits(str(tmp_path))
    assert list(splits(str(tmp_path / "annotations/train_v2.json"))) == ["train"]


def test_what_is_not_ours(tmp_path: Path) -> None:
    assert splits(str(tmp_path)) == {} and splits(str(tmp_path / "none.json")) == splits("scenes") == {}
    (tmp_path / "results.json").write_text("[]")
    (tmp_path / "labels.json").write_text('{"images": [], "annotations": []}')
    assert splits(str(tmp_path)) == splits(str(tmp_path / "results.json")) == {}
    write(tmp_path / "captions_train2017.json")
    picture(tmp_path / "a.png")
    assert list(splits(str(tmp_path))) == ["train"]


def test_instances_before_keypoints_unless_named(tmp_path: Path) -> None:
    points = [
        {"id": 1, "name": "person", "keypoints": PERSON_KEYPOINTS["names"], "skeleton": [[1, 2], [16, 14]]}
    ]
    flat = [v for i in range(17) for v in (i, i / 2, i % 3)]
    for name, part in (("train", "train2017"), ("val", "val2017")):
        picture(tmp_path / part / "a.png")
        write(tmp_path / f"annotations/instances_{name}2017.json", categories=[{"id": 3, "name": "ant"}])
        people = [thing(category_id=1, keypoints=flat, num_keypoints=12), thing(2, category_id=1)]
        write(tmp_path / f"annotations/person_keypoints_{name}2017.json", things=people, categories=points)
    found = splits(str(tmp_path))
    assert "keypoints" not in found["train"].keys
    assert "for keypoints name" in found["train"].remarks[0]
    named = splits(str(tmp_path / "annotations/person_keypoints_train2017.json"))
    assert list(named) == ["train", "val"] and all("keypoints" in part.keys for part in named.values())
    assert named["val"].remarks == []
    assert named["train"][0].targets["keypoints"].tolist() == [
        np.reshape(flat, (17, 3)).tolist(), np.zeros((17, 3)).tolist()
    ]  # fmt: skip
    classes = named["train"].classes
    assert classes.keypoints == {
        "names": PERSON_KEYPOINTS["names"],
        "pairs": [[i, i + 1] for i in range(1, 17, 2)],
        "sigmas": PERSON_KEYPOINTS["sigmas"],
        "skeleton": [[0, 1], [15, 13]],
    }
    assert ClassMap.from_json(json.loads(json.dumps(classes.to_json()))) == classes


def test_flip_pairs() -> None:
    assert flip_pairs(PERSON_KEYPOINTS["names"]) == PERSON_KEYPOINTS["pairs"]
    assert flip_pairs(["head", "LeftHand", "RightHand", "foot_r", "foot_l", "tail"]) == [[1, 2], [3, 4]]
    assert flip_pairs(["left", "middle"]) == flip_pairs(["curl", "girl"]) == []


def test_ids_as_text_match_ids_as_numbers(tmp_path: Path) -> None:
    data = only(tmp_path, thing("x", "5", "3"))
    assert len(data.annotations.labels) == 1 and data.image_id(0) == 5
    picture(tmp_path / "b.png")
    words = splits(
        str(write(tmp_path / "train.json", [image("left"), image("right", "b.png")], [thing(1, "right")]))
    )
    assert [words["train"].image_id(i) for i in range(2)] == ["left", "right"]


@pytest.mark.skipif(not MINI.exists(), reason=f"{MINI} is not here")
def test_real_pictures_as_pycocotools_sees_them() -> None:
    found = splits(str(MINI))
    truth = COCO(str(MINI / "annotations/instances_val2017.json"))
    data = found["val"]
    assert (len(found["train"]), len(data), len(data.classes)) == (80, 79, 80)
    assert list(data.classes.ids) == sorted(truth.getCatIds())
    assert [p for part in found.values() for p in part.problems() if p.level == "error"] == []
    for i in range(len(data)):
        wanted = truth.imgToAnns[data.image_id(i)]
        targets = data[i].targets
        assert targets["box_labels"].tolist() == [data.classes.index(each["category_id"]) for each in wanted]
        assert targets["crowd"].tolist() == [bool(each["iscrowd"]) for each in wanted]
        boxes = np.array([each["bbox"] for each in wanted]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        assert np.abs(targets["boxes"] - boxes).max(initial=0) <= 1
        assert all((mask == truth.annToMask(each)).all() for mask, each in zip(targets["masks"], wanted))


@pytest.mark.skipif(not ANCHOR.exists(), reason=f"{ANCHOR} is not here")
def test_annotations_can_be_read_without_their_pictures() -> None:
    read, truth = read_coco(ANCHOR), COCO(str(ANCHOR))
    assert len(read.annotations) == 100 and read.problems == []
    ids = read.annotations.object_ids
    assert ids is not None and sorted(ids.tolist()) == sorted(truth.anns)
    for row, id in enumerate(ids.tolist()):
        x, y, width, height = truth.anns[id]["bbox"]
        assert read.annotations.boxes[row].tolist() == [x, y, x + width, y + height]
