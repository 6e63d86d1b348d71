"""convert: what a format cannot hold is refused by name before anything is written, or lost where that is agreed to."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convertible import (
    HEIGHT,
    WIDTH,
    annotation,
    coco_value,
    code,
    masks,
    picture,
    same_json,
    square,
    write_json,
    yolo_source,
)

from retinue.datasets import voc, write_coco
from retinue.datasets.formats import open_splits
from retinue.datasets.targets import DataError
from retinue.tools.convert import ConversionError, convert
from retinue.tools.options import UsageError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_json(tmp_path / "coco", {"train": coco_value(0), "val": coco_value(1)})


def refused(source: Path, out: Path, **options: Any) -> str:
    with pytest.raises((DataError, UsageError)) as error:
        convert(str(source), out=str(out), **options)
    assert not out.exists() or not any(out.iterdir())
    assert [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")] == []
    return str(error.value)


def test_what_a_format_cannot_hold_is_refused_by_name(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "VOC's xml files hold no outlines: drop=masks" in refused(source, out, to="voc")
    said = refused(source, out, to="yolo")
    assert (
        "2 crowd objects" in said and "6 outlines are run-length codes" in said and "drop=crowd,masks" in said
    )
    said = refused(source, out, to="mask_folder", drop="classes")
    assert all(
        words in said for words in ("2 crowd", "2 objects have no outline", "drop=classes,crowd,boxes")
    )
    assert "of 2 classes" in refused(source, out, to="mask_folder", drop="crowd,boxes")
    boxes = yolo_source(tmp_path / "boxes", {"train/a": "0 0.5 0.5 0.5 0.5\n", "val/b": ""})
    assert "have no outlines" in refused(boxes, out, to="mask_folder")


def test_what_was_agreed_to_is_lost_and_nothing_else(source: Path, tmp_path: Path) -> None:
    convert(str(source), to="voc", out=str(tmp_path / "voc"), drop="masks")
    part = voc.splits(str(tmp_path / "voc"))["train"]
    names = [Path(part.id(i)).name for i in range(3)]
    assert names == ["07.png", "03.png", "09.png"] and np.diff(part.annotations.offsets).tolist() == [2, 0, 2]
    assert part.annotations.crowd is not None and part.annotations.crowd.tolist() == [
        False,
        True,
        False,
        False,
    ]
    convert(str(source), to="mask_folder", out=str(tmp_path / "masks"), drop="crowd,boxes,classes")
    assert len(open_splits(str(tmp_path / "masks"))["val"].annotations.labels) == 2


def test_shared_pixels_go_to_the_later_object_if_that_is_agreed_to(tmp_path: Path) -> None:
    value = coco_value(0) | {"categories": [{"id": 3, "name": "car"}]}
    value["annotations"] = [
        annotation(n, 7, 3, [0, 0, 1, 1], segmentation=code(square(4, 4, side)))
        for n, side in ((1, 9), (2, 5))
    ]
    first = write_json(tmp_path / "first", {"train": value})
    assert "25 pixels belong to several objects" in refused(first, tmp_path / "out", to="mask_folder")
    convert(str(first), to="mask_folder", out=str(tmp_path / "out"), drop="overlaps")
    areas = [mask.sum() for mask in masks(open_splits(str(tmp_path / "out"))["train"])["07.png"]]
    assert areas == [81 - 25, 25]
    value["annotations"].append(annotation(3, 7, 3, [0, 0, 1, 1], segmentation=code(square(4, 4, 9))))
    again = write_json(tmp_path / "again", {"train": value})
    assert "2 objects show no pixel" in refused(again, tmp_path / "out2", to="mask_folder", drop="overlaps")


def test_keypoints_and_outlines_do_not_both_fit_a_line(tmp_path: Path) -> None:
    value = coco_value(0)
    value["categories"] = [
        {"id": 3, "name": "person", "keypoints": ["left eye", "right eye"], "skeleton": [[1, 2]]}
    ]
    points = [10, 12, 2, 20.5, 12, 1]
    shape = code(square(4, 4, 9))
    value["annotations"] = [annotation(1, 7, 3, [4, 4, 9, 9], segmentation=shape, keypoints=points)]
    first = write_json(tmp_path / "first", {"train": value})
    assert "not both" in refused(first, tmp_path / "out", to="yolo")
    assert "no keypoints" in refused(first, tmp_path / "out", to="voc", drop="masks")
    convert(str(first), to="yolo", out=str(tmp_path / "points"), drop="masks")
    part = open_splits(str(tmp_path / "points"))["train"]
    np.testing.assert_allclose(part.annotations.keypoints, [np.reshape(points, (2, 3))], atol=1e-9)
    assert part.classes.keypoints["pairs"] == [[0, 1]]
    convert(str(first), to="yolo", out=str(tmp_path / "shapes"), drop="keypoints", rle="polygons")
    assert "masks" in open_splits(str(tmp_path / "shapes"))["train"].keys
    convert(str(first), to="coco", out=str(tmp_path / "coco"))
    same_json(
        first / "annotations/instances_train2017.json", tmp_path / "coco/annotations/instances_train.json"
    )
    kept = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    assert kept["categories"] == value["categories"] and kept["annotations"][0]["num_keypoints"] == 2


def test_names_that_would_clash(tmp_path: Path) -> None:
    value = coco_value(0) | {"annotations": [annotation(1, 7, 3, [1, 1, 2, 2])]}
    first = write_json(tmp_path / "first", {"train": value, "val": value})
    convert(str(first), to="voc", out=str(tmp_path / "voc"))
    assert (tmp_path / "voc/JPEGImages/val2017/07.png").is_file()
    assert len(voc.splits(str(tmp_path / "voc"))["val"]) == 3
    value["images"][0]["file_name"] = "03.jpg"
    again = write_json(tmp_path / "again", {"train": value})
    assert "would get the same name" in refused(again, tmp_path / "out", to="yolo")
    convert(str(again), to="coco", out=str(tmp_path / "coco"))


def test_outlines_of_pictures_that_exif_turns(tmp_path: Path) -> None:
    from PIL import Image

    value = coco_value(0) | {"categories": [{"id": 3, "name": "car"}]}
    value["annotations"] = [annotation(1, 7, 3, [4, 4, 9, 5], segmentation=code(square(4, 4, 5)))]
    first = write_json(tmp_path / "first", {"train": value})
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(first / "train2017/07.png", exif=exif)
    assert "EXIF turns it" in refused(first, tmp_path / "out", to="coco")
    convert(str(first), to="coco", out=str(tmp_path / "out"), drop="masks")
    part = open_splits(str(tmp_path / "out"))["train"]
    assert part.annotations.boxes.tolist() == [[HEIGHT - 9, 4, HEIGHT - 4, 13]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"out": "x"}, "convert needs to="),
        ({"to": "coco"}, "convert needs out="),
        ({"to": "coco", "out": "x", "drop": "mask"}, "did you mean masks"),
        ({"to": "pascal", "out": "x"}, "choose one of coco, voc, yolo, mask_folder"),
        ({"to": "coco", "out": "SOURCE/inside"}, "lies in the data"),
        ({"to": "coco", "out": "PARENT"}, "is there already"),
        ({"to": "coco", "out": "SOURCE"}, "is there already"),
    ],
)
def test_options_that_make_no_sense(source: Path, options: dict[str, str], said: str) -> None:
    given = {
        k: v.replace("SOURCE", str(source)).replace("PARENT", str(source.parent)) for k, v in options.items()
    }
    with pytest.raises((DataError, UsageError), match=said):
        convert(str(source), **given)


def test_data_without_boxes_are_refused(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / f"folder/{'ab'[i % 2]}/{i}.png", i)
    assert "label but no files with boxes" in refused(tmp_path / "folder", tmp_path / "out", to="coco")
    with pytest.raises(DataError, match="scenes"):
        convert("scenes:3", to="coco", out=str(tmp_path / "out"))


def test_what_fails_on_the_way_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.copyfile", fail)
    with pytest.raises(KeyboardInterrupt):
        convert(str(source), to="coco", out=str(tmp_path / "out"), images="copy")
    assert [path.name for path in tmp_path.iterdir()] == ["coco"]


def test_what_reads_back_otherwise_is_told(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_coco.as_json

    def forgetful(*arguments: Any) -> dict[str, Any]:
        value = whole(*arguments)
        return value | {"annotations": value["annotations"][1:]}

    monkeypatch.setattr(write_coco, "as_json", forgetful)
    with pytest.raises(ConversionError, match="other objects"):
        convert(str(source), to="coco", out=str(tmp_path / "out"))
