"""What the values in masks mean, and hostile masks named before the first step."""

from pathlib import Path

import numpy as np
import pytest
from class_masks import blobs, pair, pairs, picture, save, whole
from PIL import Image

from retinue.datasets.check import check
from retinue.datasets.formats import describe
from retinue.datasets.mask_pairs import splits
from retinue.datasets.targets import IGNORE, ClassMap, DataError

# Colours and numbers


def test_colours_by_a_table(tmp_path: Path) -> None:
    mask = blobs([0, 1, 2])
    colours = np.array([(0, 0, 0), (128, 0, 0), (9, 200, 1)], np.uint8)
    pairs(tmp_path, {"a": colours[mask], "b": colours[np.zeros_like(mask)]})
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nvoid,0,0,0\ncar,128,0,0\ntree,9,200,1\n")
    data = whole(tmp_path)
    assert data.classes == ClassMap(("car", "tree"), ("car", "tree"))
    assert (data[0].targets["semantic"] == np.array([IGNORE, 0, 1])[mask]).all()
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nvoid,0,0,0\ncar,127,0,0\ntree,9,200,1\n")
    number = f"{(mask == 1).sum():,}"
    nearest = r"the nearest is \(127, 0, 0\), car"
    with pytest.raises(DataError, match=rf"a\.png: \(128, 0, 0\) \({number} pixels; {nearest}\)"):
        whole(tmp_path)


def test_black_masks_among_coloured_ones_are_no_numbers(tmp_path: Path) -> None:
    mask = blobs([0, 1, 2])
    colours = np.array([(0, 0, 0), (128, 0, 0), (9, 200, 1)], np.uint8)
    pairs(tmp_path, {"a": colours[mask], "b": colours[np.zeros_like(mask)], "c": np.dstack([mask * 0] * 3)})
    with pytest.raises(DataError, match=r"the first: .*a\.png: is in colours, .*class_dict\.csv"):
        whole(tmp_path)
    save(tmp_path / "masks/train/b.png", mask)
    data = whole(tmp_path)
    assert [data.id(i) for i in range(len(data))] == ["images/train/b.png"]
    assert ["is in colours" in reason for _, reason in data.skipped] == [True, True]


def test_a_colour_table_beside_numbers_gives_their_names(tmp_path: Path) -> None:
    mask = blobs([0, 1, 2])
    pairs(tmp_path, {"a": mask})
    (tmp_path / "label_colors.txt").write_text("64 0 0 road\n0 64 0 sky\n0 0 64 car\n")
    data = whole(tmp_path)
    assert data.classes == ClassMap(("road", "sky", "car")) and (data[0].targets["semantic"] == mask).all()
    assert "taken for the lines of" in data.remarks[0]


def test_a_palettes_colours_may_be_the_tables(tmp_path: Path) -> None:
    """What programs call an optimised palette numbers each file anew."""
    root = tmp_path / "d"
    for name, order in (("a", [0, 1, 2]), ("b", [2, 0, 1])):
        colours = np.array([(0, 0, 0), (128, 0, 0), (9, 200, 1)], np.uint8)
        image = Image.fromarray(np.argsort(order).astype(np.uint8)[blobs([0, 1, 2])])
        image.putpalette(colours[order].ravel().tolist())
        picture(root / f"images/train/{name}.png")
        (root / "masks/train").mkdir(parents=True, exist_ok=True)
        image.save(root / f"masks/train/{name}.png")
    with pytest.raises(
        DataError, match=r"b\.png: its palette makes 0 the colour \(9, 200, 1\), that of .*a\.png"
    ):
        whole(root)
    (root / "class_dict.csv").write_text("name,r,g,b\nroad,0,0,0\ncar,128,0,0\ntree,9,200,1\n")
    data = whole(root)
    for i in range(2):
        assert (data[i].targets["semantic"] == blobs([0, 1, 2])).all()


# What values mean


def test_binary_masks_are_not_read_silently(tmp_path: Path) -> None:
    mask = np.where(blobs([0, 1]), 255, 0).astype(np.uint8)
    pairs(tmp_path, {"a": mask, "b": np.zeros_like(mask)})
    offer = "a.png: the masks hold 0 and 255 alone, where 255 mostly means ignored; .*values=0:background,255:NAME"
    with pytest.raises(DataError, match=offer):
        whole(tmp_path)
    (tmp_path / "classes.txt").write_text("background\nroad\n")
    with pytest.raises(DataError, match=offer):
        whole(tmp_path)
    (tmp_path / "classes.txt").write_text("0 0 0 background\n255 0 0 road\n")
    with pytest.raises(DataError, match=offer):
        whole(tmp_path)
    data = whole(tmp_path, "0:background,255:road")
    assert data.classes == ClassMap(("background", "road"), (0, 255))
    assert (data[0].targets["semantic"] == mask // 255).all() and data.ignored == 0
    assert "1 road (id 255)" in describe({"train": data})


def test_values_that_mean_nothing_are_named_by_file(tmp_path: Path) -> None:
    good = blobs([0, 1, 2])
    bad = good.copy()
    bad[0, :3], bad[1, 0] = 7, 9
    pairs(tmp_path, {"a": good, "b": bad} | {f"c{i}": bad for i in range(6)})
    (tmp_path / "classes.txt").write_text("road\nsky\ncar\n")
    with pytest.raises(DataError) as error:
        whole(tmp_path)
    lines = str(error.value).splitlines()
    assert lines[0] == f"7 masks have values that {tmp_path / 'classes.txt'} does not name:"
    assert lines[1] == f"  {tmp_path / 'masks/train/b.png'}: 7 (3 pixels), 9 (1 pixels)"
    assert (
        lines[6] == "  and 2 masks more" and "values=FILE of lines VALUE NAME" in lines[7] and len(lines) == 8
    )
    data = whole(tmp_path, "0:road,1:sky,2:car,7:ignore,9:car")
    assert data[1].targets["semantic"][:2, 0].tolist() == [IGNORE, 2] and data.ignored == 7 * 3


def test_classes_counted_from_one_are_recognised(tmp_path: Path) -> None:
    pairs(tmp_path, {"a": blobs([1, 2, 3])})
    (tmp_path / "classes.txt").write_text("road\nsky\ncar\n")
    with pytest.raises(DataError, match="are the classes counted from 1\\? write VALUE NAME in each line"):
        whole(tmp_path)


def test_without_a_word_the_values_are_the_classes(tmp_path: Path) -> None:
    pairs(tmp_path, {"a": blobs([0, 3, 300])})
    pair(tmp_path, "val/b", blobs([0, 5, 255]))
    found = splits(str(tmp_path))
    assert found["train"].classes == found["val"].classes == ClassMap(("0", "3", "5", "300"), (0, 3, 5, 300))
    assert "classes.txt (lines VALUE NAME) or values= gives others" in found["val"].remarks[0]


def test_too_many_values_to_be_classes(tmp_path: Path) -> None:
    mask = np.repeat(np.arange(400, dtype=np.uint16), 12).reshape(60, 80)
    pairs(tmp_path, {"a": mask})
    with pytest.raises(
        DataError, match="hold 400 different values, 0 to 399, and nothing says which are classes"
    ):
        whole(tmp_path)


# Hostile masks: skipped by name


def test_what_cannot_be_used_is_skipped_by_name(tmp_path: Path) -> None:
    mask = blobs(list(range(12)), (120, 160))
    pairs(tmp_path, dict.fromkeys(["good", "resized", "small", "alpha", "missing", "empty", "cut"], mask))
    folder = tmp_path / "masks/train"
    Image.fromarray(mask).resize((320, 240), Image.Resampling.BILINEAR).resize(
        (160, 120), Image.Resampling.BILINEAR
    ).save(folder / "resized.png")
    save(folder / "small.png", mask[::2, ::2])
    rgba = np.dstack([mask] * 4)
    save(folder / "alpha.png", rgba)
    (folder / "missing.png").unlink()
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:-30])
    picture(tmp_path / "images/train/lossy.png", (120, 160))
    save(folder / "lossy.jpg", mask)
    (tmp_path / "images/train/broken.png").write_bytes(b"no picture")
    save(folder / "broken.png", mask)
    save(folder / "alone.png", mask)
    data = whole(tmp_path, ",".join(f"{i}:class {i}" for i in range(12)))
    assert [data.id(i) for i in range(len(data))] == ["images/train/good.png"]
    wanted = {
        "resized": "in-between values on",
        "small": "is 80x60, the picture 160x120",
        "alpha": "of its pixels are transparent",
        "missing": "masks/train/missing.png is not there",
        "empty": "is empty",
        "cut": "is truncated",
        "lossy": "is a JPEG, which may blur classes",
        "broken": "cannot be decoded",
    }
    reasons = {path.stem: reason for path, reason in data.skipped}
    assert reasons.keys() == wanted.keys()
    assert all(text in reasons[name] for name, text in wanted.items())
    assert [problem.kind for problem in data.problems()] == ["mask without picture"]
    kinds = [problem.kind for problem in check({"train": data}).errors]
    assert kinds == ["unreadable"] * len(wanted)
    for name in ("good", "small"):
        (folder / f"{name}.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"no picture of split 'train' has a mask that can be used; the first: .*\.png: "
    ):
        whole(tmp_path)


def test_a_resized_mask_in_colours(tmp_path: Path) -> None:
    colours = np.array([(0, 0, 0), (128, 0, 0), (9, 200, 1), (255, 9, 99)], np.uint8)
    image = colours[blobs([0, 1, 2, 3], (120, 160))]
    small = np.asarray(Image.fromarray(image).resize((80, 60), Image.Resampling.BILINEAR))
    pairs(tmp_path, {"a": image, "b": small})
    (tmp_path / "classes.txt").write_text("0 0 0 road\n128 0 0 car\n9 200 1 tree\n255 9 99 sky\n")
    data = whole(tmp_path)
    ((path, reason),) = data.skipped
    assert path.name == "b.png" and "most on few pixels: resized or compressed" in reason
