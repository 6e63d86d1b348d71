"""COCO json: the layouts that there are, ids with holes, crowd, keypoints, and files that mean harm."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import MANY, SLOW_MANY, survives
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from retinue.datasets.check import check
from retinue.datasets.coco import CocoPictures, splits
from retinue.datasets.coco_json import read_coco
from retinue.datasets.coco_keypoints import flip_pairs
from retinue.datasets.formats import open_splits
from retinue.datasets.targets import PERSON_KEYPOINTS, ClassMap, DataError

MINI = Path(__file__).parents[3] / "shared/data/coco_mini"
ANCHOR = Path(__file__).parents[3] / "shared/data/coco_anchor/instances_val2014_100.json"
TRIANGLE = [[2, 3, 10, 3, 10, 12]]


def picture(path: Path, size: tuple[int, int] = (30, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.name), 1, 2)).save(path)
    return path


def image(id: Any = 5, name: Any = "a.png", **more: Any) -> dict[str, Any]:
    return {"id": id, "file_name": name, "height": 20, "width": 30, **more}


def thing(
    id: Any = 1, image_id: Any = 5, category_id: Any = 3, bbox: Any = (2, 3, 8, 9), **more: Any
) -> dict[str, Any]:
    box = list(bbox) if isinstance(bbox, tuple) else bbox
    return {"id": id, "image_id": image_id, "category_id": category_id, "bbox": box, **more}


def write(file: Path, images: Any = None, things: Any = None, categories: Any = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    value = {
        "images": [image()] if images is None else images,
        "annotations": [thing()] if things is None else things,
        "categories": [{"id": 3, "name": "ant"}, {"id": 7, "name": "bee"}]
        if categories is None
        else categories,
    }
    file.write_text(json.dumps(value))
    return file


def only(root: Path, *things: Any, **more: Any) -> CocoPictures:
    """The data set of one picture with these objects."""
    picture(root / "a.png")
    return splits(str(write(root / "train.json", things=list(things), **more)))["train"]


def kinds(data: CocoPictures) -> list[str]:
    return [problem.kind for problem in data.problems()]


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


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("unknown category", {"category_id": 4}),
    ("unknown category", {"category_id": None}),
    ("unknown category", {"category_id": True}),
    ("unknown image", {"image_id": 6}),
    ("unknown image", {"image_id": [5]}),
    ("malformed annotation", {"iscrowd": 2}),
    ("malformed annotation", {"iscrowd": "no"}),
    ("malformed annotation", {"bbox": [1, 2, 3]}),
    ("malformed annotation", {"bbox": "1 2 3 4"}),
    ("malformed annotation", {"bbox": None}),
    ("malformed annotation", {"bbox": [1, 2, 3, 10**400]}),
    ("malformed annotation", {"bbox": [1, 2, 3, [4]]}),
    ("NaN box", {"bbox": [1, 2, 3, float("nan")]}),
    ("NaN box", {"bbox": [float("-inf"), 2, 3, 4]}),
    ("NaN box", {"bbox": [1e308, 0, 1e308, 4]}),
    ("degenerate box", {"bbox": [1, 2, 0, 4]}),
    ("degenerate box", {"bbox": [5, 5, -3, 4]}),
    ("box outside", {"bbox": [30, 0, 4, 4]}),
    ("malformed outline", {"segmentation": {"size": [30, 20], "counts": [600]}}),
    ("malformed outline", {"segmentation": "polygon"}),
    ("malformed outline", {"segmentation": [[1e308] * 6]}),
]


@pytest.mark.parametrize(("kind", "fields"), FAULTS)
def test_an_entry_that_cannot_be_used_is_left_out_by_name(
    tmp_path: Path, kind: str, fields: dict[str, Any]
) -> None:
    data = only(tmp_path, thing(1), thing(987, **fields))
    assert data.annotations.object_ids is not None and data.annotations.object_ids.tolist() == [1]
    problems = [problem for problem in data.problems() if problem.level == "error"]
    assert [problem.kind for problem in problems] == [kind]
    assert "annotation 987" in problems[0].value and problems[0].file.endswith(("train.json", "a.png"))
    assert any("retinue check" in remark for remark in data.remarks)


def test_keypoints_that_cannot_be_used(tmp_path: Path) -> None:
    categories = [{"id": 3, "name": "ant", "keypoints": ["left_eye", "right_eye"]}]
    wrong: list[Any] = [
        [1, 2, 3],
        "123456",
        [1, 2, 1, 3, 4, 9],
        [1, 2, 1, 3, float("nan"), 1],
        [1, 2, 1, 3, 10**400, 1],
    ]
    things = [thing(i, keypoints=value) for i, value in enumerate(wrong)]
    data = only(tmp_path, thing(90, keypoints=[1, 2, 1, 3, 4, 2]), *things, categories=categories)
    assert data.classes.keypoints["pairs"] == [[0, 1]] and data.classes.keypoints["sigmas"] == [0.07, 0.07]
    assert kinds(data) == ["malformed keypoints"] * len(wrong)


def test_ids_as_text_match_ids_as_numbers(tmp_path: Path) -> None:
    data = only(tmp_path, thing("x", "5", "3"))
    assert len(data.annotations.labels) == 1 and data.image_id(0) == 5
    picture(tmp_path / "b.png")
    words = splits(
        str(write(tmp_path / "train.json", [image("left"), image("right", "b.png")], [thing(1, "right")]))
    )
    assert [words["train"].image_id(i) for i in range(2)] == ["left", "right"]


@pytest.mark.parametrize(
    ("used", "shifted"), [((2, 3), True), ((3, 8), False), ((4, 8), True), ((3, 5), False)]
)
def test_category_ids_counted_from_another_number(
    tmp_path: Path, used: tuple[int, int], shifted: bool
) -> None:
    categories = [{"id": i, "name": f"n{i}"} for i in range(3, 8)]
    data = only(
        tmp_path, *(thing(i, category_id=i) for i in range(used[0], used[1] + 1)), categories=categories
    )
    assert ("off by one?" in kinds(data)) == shifted


def test_missing_pictures_are_named_with_every_path_tried(tmp_path: Path) -> None:
    picture(tmp_path / "train2017/a.png")
    file = write(
        tmp_path / "annotations/instances_train2017.json", [image(), image(6, "gone.png")], [thing(1, 6)]
    )
    data = splits(str(tmp_path))["train"]
    assert len(data) == 1 and data.empty == 1
    ((path, reason),) = data.skipped
    assert path.name == "gone.png" and "there is no such file" in reason
    for folder in ("annotations", "train2017", "."):
        assert str(tmp_path / folder / "gone.png") in reason
    (problem,) = check({"train": data}).errors
    assert problem.kind == "unreadable" and problem.file == str(path)
    write(file, [image(6, "gone.png")], [])
    with pytest.raises(DataError, match=r"none of its 1 pictures can be used; gone\.png"):
        splits(str(tmp_path))


def test_nothing_outside_is_read(tmp_path: Path) -> None:
    root = tmp_path / "data"
    secret = picture(tmp_path / "secret/s.png")
    picture(root / "train/a.png")
    (root / "train/link.png").symlink_to(secret)
    (root / "train/deep").symlink_to(secret.parent, target_is_directory=True)
    names = [
        "../secret/s.png",
        str(secret),
        "link.png",
        "deep/s.png",
        "..\\secret\\s.png",
        "x/../../../secret/s.png",
    ]
    images = [image(), *(image(100 + i, name) for i, name in enumerate(names))]
    data = splits(str(write(root / "train.json", images)))["train"]
    assert [data.id(i) for i in range(len(data))] == ["train/a.png"]
    assert len(data.skipped) == len(names)
    assert all("leads outside" in reason or "link" in reason for _, reason in data.skipped)


def test_a_picture_listed_twice_is_one(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    images = [
        image(),
        image(6, "./a.png"),
        image(5, "b.png"),
        image(None),
        image(8, ""),
        image(9, None),
        image(10, "\x00"),
    ]
    data = splits(str(write(tmp_path / "train.json", [*images, 3], [thing()])))["train"]
    assert len(data) == 1 and [reason.split(";")[0] for _, reason in data.skipped] == [
        "train.json lists it twice"
    ]
    assert kinds(data) == ["malformed image"] * 6


TEXTS = {
    "cut": '{"images": [',
    "deep": '{"images": ' + "[" * 100_000,
    "huge number": '{"images": [{"id": ' + "9" * 5000 + '}], "annotations": [], "categories": []}',
    "not UTF-8": b'{"images": "\xff", "annotations": 0, "categories": 0}',
    "list for object": '{"images": {}, "annotations": [], "categories": []}',
    "nothing": '{"images": [], "annotations": [], "categories": []}',
    "no category": '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []}',
    "odd category": '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": [{"id": 1}]}',
    "twice": '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}',
    "nothing usable": '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [1], '
    '"categories": [{"id": 1, "name": "a"}]}',
    "odd keypoints": '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a", "keypoints": [1]}]}',
    "odd skeleton": '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a", "keypoints": ["a"], '
    '"skeleton": [[0, 1]]}]}',
}


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_json(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "a.png")
    file = tmp_path / "train.json"
    text = TEXTS[name]
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=r"train\.json"):
        read_coco(file)


def test_size_unknown_or_wrong(tmp_path: Path) -> None:
    code = {"size": [20, 30], "counts": [600]}
    other = {"size": [21, 30], "counts": [630]}
    images = [{"id": 5, "file_name": "a.png", "height": None, "width": "30"}]
    data = only(tmp_path, thing(1, segmentation=code), thing(2, segmentation=other), images=images)
    assert kinds(data) == ["outline of another size"] and data[0].targets["masks"].shape == (1, 20, 30)
    with pytest.raises(DataError, match="states 31x20, the file has 30x20"):
        only(tmp_path, thing(), images=[image(width=31)])


SOUND = [
    thing(1, area=36.5, iscrowd=0, segmentation=TRIANGLE),
    thing(2, category_id=7, iscrowd=1, segmentation={"size": [20, 30], "counts": [40, 100, 460]}),
    thing(3, 6, segmentation={"size": [20, 30], "counts": "X110000000000000000b?"}),
    thing(4, 6, bbox=(0.5, 1.5, 20.25, 10)),
]


def mutate(root: Path, count: int) -> None:
    for name in "ab":
        picture(root / f"train/{name}.png")
    points = {"keypoints": ["left_eye", "right_eye"], "skeleton": [[1, 2]]}
    categories = [{"id": 3, "name": "ant", **points}, {"id": 7, "name": "bee", **points}]
    things = [{**one, "keypoints": [1, 2, 1, 3, 4, 2]} for one in SOUND]
    file = write(root / "train.json", [image(), image(6, "b.png")], things, categories)

    def use() -> None:
        for part in splits(str(root)).values():
            list(part.problems())
            for i in range(len(part)):
                targets = part[i].targets
                boxes, height, width = targets["boxes"], *part[i].image.shape[:2]
                assert np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
                assert (boxes <= [width, height, width, height]).all()
                assert targets.get("masks", np.zeros((len(boxes), height, width))).shape == (
                    len(boxes),
                    height,
                    width,
                )

    outcomes = survives(file, root, use, count)
    assert outcomes.keys() == {"used", "refused"} and min(outcomes.values()) > count / 20


def test_mutants(tmp_path: Path) -> None:
    mutate(tmp_path, MANY)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_mutants(tmp_path: Path) -> None:
    mutate(tmp_path, SLOW_MANY)


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
