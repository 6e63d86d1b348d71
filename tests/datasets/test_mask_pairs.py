"""Folders and lists of masks of classes: tiny copies of the layouts that people have, and CamVid itself."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from class_masks import blobs, pair, picture, save
from mutations import MUTANTS, survives

from retinue.datasets import mask_folder
from retinue.datasets.formats import open_splits
from retinue.datasets.mask_pairs import MaskPairs, splits
from retinue.datasets.targets import IGNORE, ClassMap, DataError

SHARED = Path(__file__).parents[3] / "shared/data"
ELEVEN = ClassMap(
    (
        *("sky", "building", "pole", "road", "pavement", "tree", "signsymbol", "fence", "car"),
        *("pedestrian", "bicyclist"),
    )
)


def ids(found: dict[str, MaskPairs]) -> dict[str, list[str]]:
    return {name: [part.id(i) for i in range(len(part))] for name, part in found.items()}


def masks(found: dict[str, MaskPairs]) -> dict[str, list[str]]:
    return {
        name: [part.mask_path(i).relative_to(part.root).as_posix() for i in range(len(part))]
        for name, part in found.items()
    }


def camvid(root: Path, prefix: str | None = "") -> None:
    """SegNet's layout; prefix: of the paths in the lists, None for no lists."""
    for i, split in enumerate(("train", "val", "test")):
        lines = []
        for k in range(2):
            name = f"0001TP_00{i}{k:03}"
            pair(root, name, blobs(list(range(12)), seed=i), (split, f"{split}annot"))
            lines.append(f"{prefix}{split}/{name}.png {prefix}{split}annot/{name}.png")
        if prefix is not None:
            (root / f"{split}.txt").write_text("\n".join(lines) + "\n")


# CamVid


@pytest.mark.parametrize("prefix", ["", "/SegNet/CamVid/", "./", None])
def test_camvids_layout(tmp_path: Path, prefix: str | None) -> None:
    camvid(tmp_path, prefix)
    found = open_splits(str(tmp_path))
    assert all(isinstance(part, MaskPairs) for part in found.values())
    assert ids(found) == {
        split: [f"{split}/0001TP_00{i}{k:03}.png" for k in range(2)]
        for i, split in enumerate(("train", "val", "test"))
    }
    data = found["val"]
    assert data.classes == ELEVEN and data.remarks == [
        "the classes are those of CamVid, as all values fit; values= says otherwise"
    ]
    mask = blobs(list(range(12)), seed=1)
    assert (data[0].targets["semantic"] == np.where(mask == 11, IGNORE, mask)).all()
    assert data.mask_path(0) == tmp_path / "valannot/0001TP_001000.png"


def test_other_names_or_values_are_not_camvid(tmp_path: Path) -> None:
    camvid(tmp_path)
    other = tmp_path / "other"
    pair(other, "street1", blobs([0, 1, 11]), ("train", "trainannot"))
    assert splits(str(other))["train"].classes.names == ("0", "1", "11")
    save(tmp_path / "trainannot/0001TP_000000.png", blobs([0, 12]))
    assert len(splits(str(tmp_path))["train"].classes) == 13


def test_lists_of_which_lines_do_not_fit(tmp_path: Path) -> None:
    camvid(tmp_path)
    first = (tmp_path / "train.txt").read_text().splitlines()[0]
    outside = save(tmp_path.parent / f"{tmp_path.name}-outside.png", blobs([0]))
    (tmp_path / "train/link.png").symlink_to(outside)
    lines = [
        *(
            first,
            first,
            "train/none.png trainannot/0001TP_000000.png",
            first.split()[0] + " trainannot/none.png",
        ),
        *("train/0001TP_000001.png trainannot/none.png", f"../{outside.name} {first.split()[1]}"),
        f"train/link.png {first.split()[1]}",
    ]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    data = splits(str(tmp_path))["train"]
    assert ids({"train": data})["train"] == ["train/0001TP_000000.png"]
    reasons = [reason for _, reason in data.skipped]
    assert len(reasons) == 6
    for place, line in ((0, 2), (2, 4)):
        assert reasons[place] == f"train.txt:{line} names it again; remove one of the lines"
    assert "train.txt:3 names 'train/none.png', and there is no such file below" in reasons[1]
    assert "train.txt:5 names 'trainannot/none.png'" in reasons[3]
    assert all("there is no such file below" in reason for reason in reasons[4:])
    (tmp_path / "train.txt").write_text(f"{first}\nthree words here\n")
    with pytest.raises(
        DataError, match=r"train\.txt:2: 'three words here' are not two paths; write picture and mask"
    ):
        splits(str(tmp_path))


@MUTANTS
def test_mutants_of_a_list(tmp_path: Path, count: int) -> None:
    camvid(tmp_path)
    for folder in ("val", "valannot", "test", "testannot"):
        shutil.rmtree(tmp_path / folder)
    for name in ("val.txt", "test.txt"):
        (tmp_path / name).unlink()

    def use() -> None:
        for part in splits(str(tmp_path)).values():
            part[0]

    survives(tmp_path / "train.txt", tmp_path, use, count)


# Folders


@pytest.mark.parametrize(
    ("folders", "ending"),
    [
        (("{}/images", "{}/masks"), ""),
        (("images/{}", "masks/{}"), ""),
        (("images/{}", "annotations/{}"), ""),
        (("imgs/{}", "gt/{}"), "_gt"),
        (("{}", "{}_labels"), "_L"),
        (("{}", "{}_masks"), "_mask"),
        (("{}", "{}annot"), ""),
        (("img/{}", "labels/{}"), "_P"),
    ],
)
@pytest.mark.parametrize("names", [("train", "val", "test"), ("training", "validation", "testing")])
def test_split_folders_in_either_order(
    tmp_path: Path, folders: tuple[str, str], ending: str, names: tuple[str, str, str]
) -> None:
    for i, split in enumerate(names):
        picture(tmp_path / folders[0].format(split) / f"{i}.jpg")
        save(tmp_path / folders[1].format(split) / f"{i}{ending}.png", blobs([0, i + 1]))
    found = open_splits(str(tmp_path), keys=frozenset({"semantic"}))
    assert ids(found) == {
        ours: [f"{folders[0].format(split)}/{i}.jpg"]
        for i, (ours, split) in enumerate(zip(("train", "val", "test"), names))
    }
    assert masks(found)["val"] == [f"{folders[1].format(names[1])}/1{ending}.png"]
    assert (found["test"][0].targets["semantic"] == blobs([0, 3])).all()
    assert found["train"].classes.names == ("0", "1", "2", "3")


def test_deeper_folders_and_cityscapes_names(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for i in range(2):
            stem = f"{split}/aachen/aachen_{i}"
            picture(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png")
            for ending, value in (
                ("labelIds", 30),
                ("labelTrainIds", 18),
                ("instanceIds", 26000),
                ("color", 99),
            ):
                save(tmp_path / f"gtFine/{stem}_gtFine_{ending}.png", blobs([0, value]))
    found = open_splits(str(tmp_path))
    assert ids(found)["val"][1] == "leftImg8bit/val/aachen/aachen_1_leftImg8bit.png"
    assert masks(found)["val"][1] == "gtFine/val/aachen/aachen_1_gtFine_labelTrainIds.png"
    assert found["train"].classes.names == ("0", "18") and not list(found["train"].problems())


def test_without_splits_a_part_is_held_out(tmp_path: Path) -> None:
    for i in range(10):
        pair(tmp_path, f"{i}", blobs([0, 1]))
    found = splits(str(tmp_path))
    assert {name: len(part) for name, part in found.items()} == {"train": 8, "val": 2}
    assert all(
        "20% of the pictures" in part.remarks[-1] and part.split == name for name, part in found.items()
    )
    assert ids(splits(str(tmp_path))) == ids(found)


@pytest.mark.parametrize("names", [["3.png", "7.png"], ["3", "7"], ["images/3.png", "./images/7.png"]])
def test_lists_of_names_beside_folders(tmp_path: Path, names: list[str]) -> None:
    """As fast.ai has CamVid: valid.txt alone, and the rest is for training; codes.txt names the classes."""
    for i in range(9):
        picture(tmp_path / f"images/{i}.png")
        save(tmp_path / f"labels/{i}_P.png", blobs([0, 2]))
    (tmp_path / "valid.txt").write_text("\n".join(names))
    (tmp_path / "codes.txt").write_text("Animal\nArchway\nBicyclist\nVoid\n")
    found = open_splits(str(tmp_path))
    assert ids(found)["val"] == ["images/3.png", "images/7.png"]
    assert ids(found)["train"] == [f"images/{i}.png" for i in (0, 1, 2, 4, 5, 6, 8)]
    assert found["train"].classes.names == ("Animal", "Archway", "Bicyclist")
    (tmp_path / "train.txt").write_text("1\n2\nx\n")
    train = splits(str(tmp_path))["train"]
    assert ids({"train": train})["train"] == ["images/1.png", "images/2.png"]
    assert [(path.name, reason[:16]) for path, reason in train.skipped] == [("x", "a list names it,")]


def test_test_pictures_without_masks_are_no_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        pair(tmp_path, f"{split}/a", blobs([0, 1]))
    picture(tmp_path / "images/test/a.png")
    save(tmp_path / "masks/test/other.png", blobs([0, 1]))
    assert list(splits(str(tmp_path))) == ["train", "val"]


def test_png_masks_go_before_others_of_their_name(tmp_path: Path) -> None:
    pair(tmp_path, "train/a", blobs([0, 1]))
    save(tmp_path / "masks/train/a.jpg", blobs([0, 1]))
    data = splits(str(tmp_path))["train"]
    assert data.mask_path(0).name == "a.png" and len(data) == 1


def test_two_folders_are_a_choice(tmp_path: Path) -> None:
    pair(tmp_path, "a", blobs([0, 1]))
    save(tmp_path / "labels/a.png", blobs([0, 1]))
    with pytest.raises(DataError, match=r"\['labels', 'masks'\]; leave one folder of masks in it"):
        splits(str(tmp_path))
    pair(tmp_path / "b", "x", blobs([0, 1]), ("train", "train_masks"))
    save(tmp_path / "b/trainannot/x.png", blobs([0, 1]))
    with pytest.raises(
        DataError, match=r"\['train_masks', 'trainannot'\]; leave one folder of masks for train"
    ):
        splits(str(tmp_path / "b"))


# Told from others


def test_numbered_objects_stay_objects_unless_something_names_classes(tmp_path: Path) -> None:
    root = str(tmp_path)
    for i in range(4):
        picture(tmp_path / f"images/{i}.png")
        save(tmp_path / f"masks/{i}_mask.png", blobs([0, 1, 2]))
    assert splits(root) == {} and mask_folder.splits(root)
    data = open_splits(root, keys=frozenset({"semantic"}))["train"]
    assert isinstance(data, mask_folder.MaskFolder)
    assert data.remarks[0].endswith("if they are classes: values=0:NAME,1:NAME,...")
    (tmp_path / "classes.txt").write_text("road\nsky\ncar")
    assert isinstance(open_splits(root)["train"], mask_folder.MaskFolder)
    with pytest.raises(DataError, match="could be mask_folder or mask_pairs; choose one with format=NAME"):
        open_splits(root, keys=frozenset({"semantic"}))
    assert open_splits(root, format="mask_pairs")["train"].classes.names == ("road", "sky", "car")
    (tmp_path / "classes.txt").unlink()
    named = open_splits(root, values="0:road,1:sky,2:car")["train"]
    assert isinstance(named, MaskPairs) and (named[0].targets["semantic"] == blobs([0, 1, 2])).all()


def test_what_is_not_ours(tmp_path: Path) -> None:
    for name in ("train/ants/1.png", "train/bees/2.png", "images/3.png"):
        picture(tmp_path / name)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/3.txt").write_text("0 0.5 0.5 0.1 0.1")
    (tmp_path / "train.txt").write_text("images/3.png\n")
    assert splits(str(tmp_path)) == splits(str(tmp_path / "none")) == splits("scenes") == {}
    (tmp_path / "train.txt").write_text("images/3.png 0\n")
    assert splits(str(tmp_path)) == {}


@pytest.mark.parametrize(
    "name", ["PennFudanPed", "BCCD", "coco_mini", "hymenoptera_data", "rgbd_tsdf", "cifar10_jpg"]
)
def test_real_data_of_other_formats_are_not_ours(name: str) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"shared/data/{name} is absent")
    assert splits(str(SHARED / name)) == {}


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="shared/data/camvid is absent")
def test_camvid_itself() -> None:
    found = open_splits(str(SHARED / "camvid"))
    assert {name: len(part) for name, part in found.items()} == {"train": 367, "val": 101, "test": 233}
    assert all(part.classes == ELEVEN and not part.skipped for part in found.values())
    pixels = sum(part.pixel_counts().sum() + part.ignored for part in found.values())
    assert pixels == 701 * 360 * 480
    assert sum(part.ignored for part in found.values()) == 4_344_649
    assert found["train"].pixel_counts().tolist() == [
        *(10_682_767, 14_750_079, 623_349, 20_076_880, 2_845_085, 6_166_762, 743_859, 714_595, 3_719_877),
        *(405_385, 184_967),
    ]
    assert not [problem for part in found.values() for problem in part.problems()]
    sample = found["test"][0]
    assert sample.id == "test/0001TP_008550.jpg" and sample.image.shape == (360, 480, 3)
    assert set(np.unique(sample.targets["semantic"])) <= {*range(11), IGNORE}
