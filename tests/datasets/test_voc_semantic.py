"""Pascal VOC's masks: palette files by their indices, lists, other programs' classes, and boxes beside them."""

from pathlib import Path

import numpy as np
import pytest
from class_masks import blobs, picture, save
from PIL import Image

from retinue.datasets.formats import open_splits
from retinue.datasets.targets import IGNORE, ClassMap, DataError
from retinue.datasets.voc import PascalVoc
from retinue.datasets.voc_semantic import NAMES, VocSemantic, splits

BOX = "<annotation><object><name>dog</name><bndbox>{}</bndbox></object></annotation>".format(
    "".join(
        f"<{name}>{value}</{name}>" for name, value in (("xmin", 2), ("ymin", 3), ("xmax", 9), ("ymax", 9))
    )
)


def palette() -> list[int]:
    """VOC's colours: the bits of the index, dealt to red, green and blue from the highest on."""
    colours = np.zeros((256, 3), int)
    for index in range(256):
        for bit in range(8):
            colours[index, bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return colours.ravel().tolist()


def voc(root: Path, names: dict[str, str], values: tuple[int, ...] = (0, 12, 15, 255)) -> Path:
    """names: picture -> split; "" for those in no list."""
    for i, (name, split) in enumerate(names.items()):
        picture(root / f"JPEGImages/{name}.jpg")
        image = Image.fromarray(blobs(list(values), seed=i))
        image.putpalette(palette())
        (root / "SegmentationClass").mkdir(exist_ok=True)
        image.save(root / f"SegmentationClass/{name}.png")
        folder = root / "ImageSets/Segmentation"
        if split:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"{split}.txt").open("a") as file:
                file.write(f"{name}\n")
    return root


@pytest.mark.parametrize("nested", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_the_devkits_layout(tmp_path: Path, nested: str) -> None:
    root = voc(tmp_path / nested, {"a": "train", "b": "train", "c": "val", "d": ""})
    found = open_splits(str(tmp_path))
    assert {name: [part.id(i) for i in range(len(part))] for name, part in found.items()} == {
        "train": ["JPEGImages/a.jpg", "JPEGImages/b.jpg"],
        "val": ["JPEGImages/c.jpg"],
    }
    data = found["val"]
    assert isinstance(data, VocSemantic) and data.root == root
    assert data.classes == ClassMap(NAMES) and len(NAMES) == 21
    assert (NAMES[0], NAMES[15], NAMES[20]) == ("background", "person", "tvmonitor")
    assert (data[0].targets["semantic"] == blobs([0, 12, 15, 255], seed=2)).all()
    assert (data[0].targets["semantic"] == IGNORE).sum() == data.ignored > 0


def test_trainval_and_missing_files(tmp_path: Path) -> None:
    voc(tmp_path, {"a": "trainval", "b": "trainval", "c": "trainval"})
    (tmp_path / "SegmentationClass/b.png").unlink()
    (tmp_path / "JPEGImages/c.jpg").unlink()
    (tmp_path / "ImageSets/Segmentation/test.txt").write_text("x\n")
    found = splits(str(tmp_path))
    assert list(found) == ["train"] and len(found["train"]) == 1
    assert [(path.name, reason) for path, reason in found["train"].skipped] == [
        ("b.jpg", f"{tmp_path / 'SegmentationClass/b.png'} is not there; put it there"),
        ("c.jpg", f"{tmp_path / 'JPEGImages/c.jpg'} is not there; put it there"),
    ]


def test_without_lists_a_part_is_held_out(tmp_path: Path) -> None:
    voc(tmp_path, {f"{i}": "" for i in range(6)})
    picture(tmp_path / "JPEGImages/unlabelled.jpg")
    found = splits(str(tmp_path))
    assert {name: len(part) for name, part in found.items()} == {"train": 5, "val": 1}
    assert found["train"].remarks[0] == "1 pictures without a mask are not used"
    assert "by a hash of the path" in found["val"].remarks[-1]


def test_other_classes(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": "train"}, (0, 1, 2))
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nx:128,0,0::\ny:0,128,0::\n"
    )
    data = splits(str(tmp_path))["train"]
    assert data.classes.names == ("background", "x", "y")
    assert (data[0].targets["semantic"] == blobs([0, 1, 2])).all()
    save(root / "SegmentationClass/a.png", np.array(palette(), np.uint8).reshape(-1, 3)[blobs([0, 1, 2])])
    assert (splits(str(tmp_path))["train"][0].targets["semantic"] == blobs([0, 1, 2])).all()
    (root / "labelmap.txt").unlink()
    with pytest.raises(DataError, match="is in colours"):
        splits(str(tmp_path))


def test_values_beyond_vocs_are_their_own_names(tmp_path: Path) -> None:
    voc(tmp_path, {"a": "train"}, (0, 12, 40))
    assert splits(str(tmp_path))["train"].classes.names == ("0", "12", "40")


def test_binary_masks_are_not_background_and_void(tmp_path: Path) -> None:
    voc(tmp_path, {"a": "train"}, (0, 255))
    with pytest.raises(DataError, match="the masks hold 0 and 255 alone"):
        splits(str(tmp_path))
    assert splits(str(tmp_path), "0:background,255:dog")["train"].classes.names == ("background", "dog")


def test_boxes_and_masks_in_one_folder(tmp_path: Path) -> None:
    """What is asked for decides, and masks are not read where boxes are."""
    root = voc(tmp_path, {"a": "train", "b": "val"})
    (root / "Annotations").mkdir()
    (root / "ImageSets/Main").mkdir()
    for name, split in (("a", "train"), ("b", "val")):
        (root / f"Annotations/{name}.xml").write_text(BOX)
        (root / f"ImageSets/Main/{split}.txt").write_text(name)
    source = str(root)
    for keys in (frozenset[str](), frozenset({"boxes", "box_labels"})):
        assert isinstance(open_splits(source, keys=keys)["train"], PascalVoc)
    assert isinstance(open_splits(source, keys=frozenset({"semantic"}))["train"], VocSemantic)
    assert isinstance(open_splits(source, format="voc_semantic")["train"], VocSemantic)
    (root / "SegmentationClass/a.png").write_bytes(b"")
    assert len(open_splits(source)["train"]) == 1
    with pytest.raises(DataError, match="is empty"):
        open_splits(source, keys=frozenset({"semantic"}))


def test_two_devkits_are_a_choice(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        voc(tmp_path / year, {"a": "train"})
    with pytest.raises(DataError, match=r"holds \['VOC2007', 'VOC2012'\]; name one of them"):
        splits(str(tmp_path))
    assert splits(str(tmp_path / "VOC2007/JPEGImages")) == splits("scenes") == {}
