"""COCO json that cannot be used, or means harm: left out or refused by name, and nothing outside is read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import TRIANGLE, image, kinds, only, picture, thing, write
from mutations import MUTANTS, survives

from retinue.datasets.check import check
from retinue.datasets.coco import splits
from retinue.datasets.coco_json import read_coco
from retinue.datasets.targets import DataError

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


@MUTANTS
def test_mutants(tmp_path: Path, count: int) -> None:
    for name in "ab":
        picture(tmp_path / f"train/{name}.png")
    points = {"keypoints": ["left_eye", "right_eye"], "skeleton": [[1, 2]]}
    categories = [{"id": 3, "name": "ant", **points}, {"id": 7, "name": "bee", **points}]
    things = [{**one, "keypoints": [1, 2, 1, 3, 4, 2]} for one in SOUND]
    file = write(tmp_path / "train.json", [image(), image(6, "b.png")], things, categories)

    def use() -> None:
        for part in splits(str(tmp_path)).values():
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

    outcomes = survives(file, tmp_path, use, count)
    assert outcomes.keys() == {"used", "refused"} and min(outcomes.values()) > count / 20
