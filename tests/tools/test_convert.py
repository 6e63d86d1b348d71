"""convert: what goes in comes out again, in every format."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from convertible import (
    HEIGHT,
    WIDTH,
    annotation,
    by_id,
    coco_value,
    code,
    masks,
    numbers,
    picture,
    same_json,
    square,
    write_json,
    yolo_source,
)

from retinue.datasets import coco, voc, yolo
from retinue.datasets.formats import open_splits
from retinue.datasets.voc_xml import VocObject, VocPicture, read_xml, write_xml
from retinue.tools import command
from retinue.tools.convert import convert

SHARED = Path(__file__).parents[3] / "shared/data"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_json(tmp_path / "coco", {"train": coco_value(0), "val": coco_value(1)})


def test_coco_to_coco_is_equal(source: Path, tmp_path: Path) -> None:
    result = convert(str(source), to="coco", out=str(tmp_path / "out"))
    for split in ("train", "val"):
        after = tmp_path / f"out/annotations/instances_{split}.json"
        same_json(source / f"annotations/instances_{split}2017.json", after)
    assert (result["pictures"], result["objects"]) == (6, 8)
    assert result["notes"] == ["read back: the same objects, boxes within 0 pixels"]


def test_random_boxes_keep_every_bit(tmp_path: Path) -> None:
    luck = np.random.default_rng(0)
    value = {"images": [], "annotations": [], "categories": [{"id": 5, "name": "a"}]}
    for i in range(20):
        value["images"].append({"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH})
        for _ in range(20):
            x, y = luck.uniform(0, 40, 2).tolist()
            width, height = luck.uniform(0.01, 8, 2).tolist()
            digits = int(luck.integers(0, 17))
            box = [round(v, digits) for v in (x, y, width + 0.5, height + 0.5)]
            value["annotations"].append(
                annotation(len(value["annotations"]), i, 5, box, area=float(luck.random()))
            )
    write_json(tmp_path / "a", {"train": value})
    convert(str(tmp_path / "a"), to="coco", out=str(tmp_path / "b"))
    convert(str(tmp_path / "a"), to="voc", out=str(tmp_path / "c"))
    first, second, third = (open_splits(str(tmp_path / name))["train"] for name in "abc")
    for other in (second, third):
        order = [int(Path(other.id(i)).stem) for i in range(20)]
        for i, k in enumerate(order):
            rows = [part.annotations.offsets for part in (other, first)]
            a = other.annotations.boxes[rows[0][i] : rows[0][i + 1]]
            assert (a == first.annotations.boxes[rows[1][k] : rows[1][k + 1]]).all()


def voc_source(root: Path) -> Path:
    objects = [
        VocObject("dog", ("2", "3", "10", "12"), False, True, "Left"),
        VocObject("cat & co", ("1", "1", "64", "48"), True, False, "Unspecified"),
        VocObject("dog", ("4.1", "5.3", "9.7", "20"), False, False, "Rear"),
    ]
    pictures = {"train": {"a": objects, "b": []}, "val": {"c": objects[:1]}}
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets/Main").mkdir(parents=True)
    for split, named in pictures.items():
        for stem, own in named.items():
            picture(root / f"JPEGImages/{stem}.jpg", ord(stem))
            read = VocPicture(f"{stem}.jpg", (HEIGHT, WIDTH), "x", "PASCAL VOC2007", own)
            write_xml(root / f"Annotations/{stem}.xml", read)
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(named) + "\n")
    return root


def test_voc_to_coco_to_voc_is_equal(tmp_path: Path) -> None:
    first = voc_source(tmp_path / "first")
    convert(str(first), to="coco", out=str(tmp_path / "coco"))
    result = convert(str(tmp_path / "coco"), to="voc", out=str(tmp_path / "last"))
    for file in (first / "Annotations").iterdir():
        before, after = read_xml(file), read_xml(tmp_path / "last/Annotations" / file.name)
        named = [each._replace(pose=each.pose or "Unspecified") for each in before.objects]
        assert named == after.objects and (before.filename, before.size) == (after.filename, after.size)
    for split in ("train", "val"):
        lists = [(root / f"ImageSets/Main/{split}.txt").read_text() for root in (first, tmp_path / "last")]
        assert lists[0] == lists[1]
    assert (tmp_path / "last/ImageSets/Main/trainval.txt").read_text().split() == ["a", "b", "c"]
    assert any("1 crowd objects become difficult" in note for note in result["notes"])


@pytest.mark.parametrize(
    ("line", "more"),
    [
        ("2 0.5 0.512345 0.25 0.123457\n0 0.1 0.1 0.2 0.2\n", ""),
        ("1 0.25 0.100001 0.75 0.1 0.5 0.9 0.3 0.7\n", ""),
        (
            "0 0.5 0.5 0.5 0.5 0.512345 0.5 2 0.25 0.5 1 0 0 0\n",
            "kpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\nkpt_names: {0: [nose, left, right]}\n",
        ),
    ],
)
def test_yolo_to_coco_to_yolo_is_equal(tmp_path: Path, line: str, more: str) -> None:
    names = {"train/a": line, "train/b": "", "val/c": line + line}
    first = yolo_source(tmp_path / "first", names, more)
    convert(str(first), to="coco", out=str(tmp_path / "coco"))
    convert(str(tmp_path / "coco"), to="yolo", out=str(tmp_path / "last"), drop=["masks"] if more else [])
    for name in names:
        before, after = (numbers(root / f"labels/{name}.txt") for root in (first, tmp_path / "last"))
        np.testing.assert_allclose(after, before, rtol=0, atol=2e-12)
        assert (tmp_path / f"last/images/{name}.png").is_file()
    before, after = (yolo.splits(str(root))["train"].classes for root in (first, tmp_path / "last"))
    assert before == after


def test_coco_to_masks_to_coco_has_the_same_masks(tmp_path: Path) -> None:
    disc = cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), (45, 30), 10, 1, -1).astype(bool)
    shapes = [square(2, 3, 9), disc, square(30, 5, 12) & ~square(34, 9, 4)]
    value = coco_value(0) | {"categories": [{"id": 3, "name": "street car"}]}
    value["annotations"] = [
        annotation(n, image, 3, [0, 0, 1, 1], segmentation=code(shape))
        for n, (image, shape) in enumerate(zip((7, 7, 9), shapes))
    ]
    first = write_json(tmp_path / "first", {"train": value, "val": value})
    convert(str(first), to="mask_folder", out=str(tmp_path / "masks"))
    assert (tmp_path / "masks/train/street carMasks/07_mask.png").is_file()
    convert(str(tmp_path / "masks"), to="coco", out=str(tmp_path / "last"))
    before, after = (masks(coco.splits(str(root))["train"]) for root in (first, tmp_path / "last"))
    assert before.keys() == after.keys()
    for name in before:
        assert len(before[name]) == len(after[name])
        assert all((a == b).all() for a, b in zip(before[name], after[name]))


def test_more_than_255_objects_need_16_bits(tmp_path: Path) -> None:
    value = coco_value(0) | {"categories": [{"id": 3, "name": "dot"}]}
    dots = [square(x, y, 1) for x in range(0, 60, 3) for y in range(0, 45, 3)]
    value["annotations"] = [
        annotation(n, 7, 3, [0, 0, 1, 1], segmentation=code(dot)) for n, dot in enumerate(dots, 1)
    ]
    first = write_json(tmp_path / "first", {"train": value})
    convert(str(first), to="mask_folder", out=str(tmp_path / "masks"))
    mask = cv2.imread(str(tmp_path / "masks/train/dotMasks/07_mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.dtype == np.uint16 and mask.max() == len(dots) == 300


def test_run_length_codes_stay_unless_asked_and_polygons_draw_the_same(source: Path, tmp_path: Path) -> None:
    result = convert(str(source), to="coco", out=str(tmp_path / "out"), rle="polygons")
    assert "4 outlines became polygons: IoU 1.0000 on average, 1.0000 at least" in result["notes"]
    value = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert all(isinstance(each["segmentation"], list) for each in value["annotations"])
    assert by_id(value["annotations"])[42] == by_id(coco_value(0)["annotations"])[42]
    before, after = (masks(coco.splits(str(root))["train"]) for root in (source, tmp_path / "out"))
    assert all((a == b).all() for name in before for a, b in zip(before[name], after[name]))


def test_outlines_to_yolo_as_one_ring_each(source: Path, tmp_path: Path) -> None:
    options = {"to": "yolo", "rle": "polygons", "drop": "crowd"}
    result = convert(str(source), out=str(tmp_path / "out"), **options)
    assert any("objects without an outline stand as boxes" in note for note in result["notes"])
    before, after = (masks(open_splits(str(root))["train"]) for root in (source, tmp_path / "out"))
    assert (before["07.png"][0] == after["07.png"][0]).all() and len(after["07.png"]) == 1
    assert (before["09.png"][1] == after["09.png"][1]).all()
    assert open_splits(str(tmp_path / "out"))["val"].classes.names == ("car", "cat", "tooth brush")


def test_images_are_linked_copied_or_left(source: Path, tmp_path: Path) -> None:
    original = source / "train2017/07.png"
    for how in ("link", "copy", "none"):
        result = convert(str(source), to="coco", out=str(tmp_path / how), images=how)
        target = tmp_path / how / "images/train/07.png"
        assert target.is_file() == (how != "none")
        if how != "none":
            assert os.path.samefile(original, target) == (how == "link")
            assert target.read_bytes() == original.read_bytes()
        else:
            assert result["notes"] == []


def test_links_across_disks_are_copies(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    convert(str(source), to="coco", out=str(tmp_path / "out"))
    assert (tmp_path / "out/images/val/17.png").is_file()
    assert "6 pictures were copied" in capsys.readouterr().out


def test_what_leaves_its_picture_is_cut_for_yolo(tmp_path: Path) -> None:
    value = coco_value(0)
    ring = [-10.0, 5, 10, 5, 10, 15, -10, 15]
    value["annotations"] = [annotation(1, 7, 3, [0, 5, 10, 10], segmentation=[ring], area=100)]
    source = write_json(tmp_path / "coco", {"train": value})
    result = convert(str(source), to="yolo", out=str(tmp_path / "out"))
    assert "1 outlines leave their pictures and are cut at the border" in result["notes"]
    back = open_splits(str(tmp_path / "out"))["train"]
    shown = back[[back.path(i).name for i in range(3)].index("07.png")]
    assert (shown.targets["masks"] == square(0, 5, 10)[None]).all()
    value["annotations"] = [annotation(1, 7, 3, [0, 5, 10, 10], keypoints=[-10, 5, 2, 3, 6, 1])]
    value["categories"][0]["keypoints"] = ["nose", "tail"]
    source = write_json(tmp_path / "points", {"train": value})
    result = convert(str(source), to="yolo", out=str(tmp_path / "out2"))
    assert "1 keypoints lie outside their pictures and become unlabelled ones" in result["notes"]
    assert numbers(tmp_path / "out2/labels/train/07.txt")[5:].tolist() == [0, 0, 0, 3 / 64, 0.125, 1]


def test_pictures_of_one_name_in_several_folders_keep_their_own_objects(tmp_path: Path) -> None:
    value = coco_value(0)
    for entry, name in zip(value["images"], ("z/1.png", "b/1.png", "a/1.png"), strict=True):
        entry["file_name"] = name
    source = write_json(tmp_path / "coco", {"train": value})
    for to in ("coco", "yolo"):
        result = convert(str(source), to=to, out=str(tmp_path / f"as {to}"), drop="masks,crowd")
        assert "the same objects" in result["notes"][-1]
    assert numbers(tmp_path / "as yolo/labels/train/a/1.txt").shape == (10,)
    assert (tmp_path / "as yolo/labels/train/b/1.txt").read_text() == ""


def test_the_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", str(source), "to=voc", f"out={tmp_path / 'out'}", "json=-"]
    assert command.main(words) == 2
    assert "drop=masks" in capsys.readouterr().err
    assert command.main([*words, "drop=masks"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["objects"] == 8 and "hard links" in shown.err
    assert command.main(["convert"]) == 2
    assert "convert what?" in capsys.readouterr().err


@pytest.mark.skipif(not (SHARED / "coco_mini").exists(), reason="needs shared/data/coco_mini")
def test_coco_mini_is_equal_after_conversion(tmp_path: Path) -> None:
    for kind in ("instances", "person_keypoints"):
        file = SHARED / f"coco_mini/annotations/{kind}_train2017.json"
        convert(str(file), to="coco", out=str(tmp_path / kind))
        for split in ("train", "val"):
            before = file.with_name(f"{kind}_{split}2017.json")
            same_json_but_for_names(before, tmp_path / kind / f"annotations/instances_{split}.json")


def same_json_but_for_names(before: Path, after: Path) -> None:
    value = json.loads(before.read_text())
    for image in value["images"]:
        image.update({k: image[k] for k in ("id", "file_name", "height", "width")})
        for key in [key for key in image if key not in ("id", "file_name", "height", "width")]:
            del image[key]
    plain = after.with_suffix(".before")
    plain.write_text(json.dumps(value))
    same_json(plain, after)


@pytest.mark.skipif(not (SHARED / "BCCD").exists(), reason="needs shared/data/BCCD")
def test_bccd_keeps_its_boxes(tmp_path: Path) -> None:
    convert(str(SHARED / "BCCD"), to="voc", out=str(tmp_path / "voc"), images="copy")
    first, last = voc.splits(str(SHARED / "BCCD")), voc.splits(str(tmp_path / "voc"))
    for name, part in first.items():
        assert (part.annotations.boxes == last[name].annotations.boxes).all()
        assert (part.annotations.labels == last[name].annotations.labels).all()
