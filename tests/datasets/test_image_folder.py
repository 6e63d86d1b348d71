"""Image folders, and finding the pictures in them that cannot be used."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinue.datasets.image_folder import ImageFolder, splits
from retinue.datasets.pictures import PictureError
from retinue.datasets.plain import find_pictures
from retinue.datasets.scan import scan, usable
from retinue.datasets.targets import ClassMap, DataError


def picture(path: Path, value: int = 0, size: tuple[int, int] = (5, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 1, 2)).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """bees and ants, two to train and one to validate of each; deeper folders and strange files."""
    for i, name in enumerate(("train/bees/b1.png", "train/bees/deep/er/b2.JPG", "train/ants/a1.png")):
        picture(tmp_path / name, i)
    picture(tmp_path / "train/ants/a2.webp", 9)
    picture(tmp_path / "valid/bees/b3.png", 11)
    picture(tmp_path / "valid/ants/a3.png", 12)
    for name in (".DS_Store", "Thumbs.db", "notes.txt", ".hidden.png"):
        (tmp_path / "train/ants" / name).write_bytes(b"x")
    (tmp_path / "train/.cache").mkdir()
    return tmp_path


def test_paths_labels_and_classes(root: Path) -> None:
    data = ImageFolder(root, "train")
    assert data.classes == ClassMap(("ants", "bees"), ("ants", "bees"))
    assert data.keys == {"label"}
    assert [data.id(i) for i in range(len(data))] == [
        *("train/ants/a1.png", "train/ants/a2.webp", "train/bees/b1.png", "train/bees/deep/er/b2.JPG")
    ]
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert data.labels.dtype == np.int64
    assert data.class_counts().tolist() == [2, 2]
    sample = data[2]
    assert sample.id == "train/bees/b1.png"
    assert sample.image.shape == (4, 5, 3) and sample.file_size == (4, 5)
    assert sample.targets["label"] == 1 and sample.targets["label"].dtype == np.int64
    assert sample.targets["label"].shape == ()
    assert data.remarks == ["1 files that are no pictures by their suffix are ignored: 1 .txt"]
    with pytest.raises(IndexError):
        data[4]


def test_splits_share_the_training_classes(root: Path) -> None:
    found = splits(str(root))
    assert list(found) == ["train", "val"]
    assert found["val"].classes == found["train"].classes
    assert found["val"].labels.tolist() == [0, 1]
    assert len(ImageFolder(root, "val")) == len(ImageFolder(root, "validation")) == 2


def test_an_unknown_class_in_val_is_named(root: Path) -> None:
    picture(root / "valid/wasps/w.png")
    with pytest.raises(DataError, match=r"\['wasps'\] are not among the known classes \['ants', 'bees'\]"):
        splits(str(root))


def test_an_empty_class_folder_is_named(root: Path) -> None:
    (root / "train/wasps").mkdir()
    with pytest.raises(DataError, match="'wasps' has no pictures"):
        ImageFolder(root, "train")


def test_a_missing_split_or_root_is_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'test'.*\['train', 'valid'\]"):
        ImageFolder(root, "test")
    with pytest.raises(DataError, match="no such folder"):
        ImageFolder(root / "nowhere")
    picture(root / "val/ants/x.png")
    with pytest.raises(DataError, match="are both val"):
        splits(str(root))


def test_loose_pictures_are_reported(root: Path) -> None:
    picture(root / "train/loose.png")
    assert any("1 pictures lie in" in remark for remark in ImageFolder(root, "train").remarks)


def test_without_splits_a_fifth_of_each_class_is_held_out(tmp_path: Path) -> None:
    for name, count in (("a", 10), ("b", 7), ("c", 1)):
        for i in range(count):
            picture(tmp_path / name / f"{i}.png", i)
    found = splits(str(tmp_path))
    train, val = found["train"], found["val"]
    assert val.class_counts().tolist() == [2, 1, 0]
    ids = [{part.id(i) for i in range(len(part))} for part in (train, val)]
    assert not ids[0] & ids[1]
    whole = ImageFolder(tmp_path, "all")
    assert ids[0] | ids[1] == {whole.id(i) for i in range(18)}
    assert any("no splits" in remark for remark in val.remarks)
    # another file in another class moves nothing
    picture(tmp_path / "b" / "new.png")
    again = ImageFolder(tmp_path, "val")
    assert {again.id(i) for i in range(len(again)) if again.labels[i] == 0} == {
        i for i in ids[1] if i[0] == "a"
    }


@pytest.mark.parametrize(
    "names",
    [["images", "labels"], ["JPEGImages", "Annotations"], ["PNGImages", "PedMasks"], ["images", "masks"]],
)
def test_other_formats_are_not_claimed(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        picture(tmp_path / "flat" / name / "1.png")
        picture(tmp_path / "split" / "train" / name / "1.png")
    assert splits(str(tmp_path / "flat")) == splits(str(tmp_path / "split")) == {}


def test_classes_called_with_and_without_mask_are_claimed(tmp_path: Path) -> None:
    for name in ("with_mask", "without_mask"):
        picture(tmp_path / name / "1.png")
        picture(tmp_path / name / "2.png")
    assert list(splits(str(tmp_path))) == ["train", "val"]


def test_circles_of_links_end(root: Path) -> None:
    (root / "train/ants/again").symlink_to(root / "train", target_is_directory=True)
    assert len(ImageFolder(root, "train")) < 20


def test_labels_by_another_models_classes(root: Path) -> None:
    data = ImageFolder(root, "train").with_classes(
        ClassMap(("wasp", "bee", "ant"), ("wasps", "bees", "ants"))
    )
    assert data.labels.tolist() == [2, 2, 1, 1]
    with pytest.raises(DataError, match=r"classes \['ants'\].*are not among"):
        data.with_classes(ClassMap(("bees",), ("bees",)))


@pytest.fixture
def spoilt(root: Path) -> tuple[Path, list[Path]]:
    whole = (root / "train/ants/a1.png").read_bytes()
    bad = {
        "train/ants/empty.png": b"",
        "train/ants/cut.png": whole[:-20],
        "train/bees/page.jpg": b"<html></html>",
    }
    for name, content in bad.items():
        (root / name).write_bytes(content)
    return root, [root / name for name in bad]


def test_scan_finds_exactly_the_unusable(spoilt: tuple[Path, list[Path]]) -> None:
    root, bad = spoilt
    Image.new("RGBA", (3, 3)).save(root / "train/ants/alpha.png")
    data, told, notes = ImageFolder(root, "train"), [], Counter()
    found = scan(data, 2, lambda done, total: told.append((done, total)), notes)
    assert {path for path, _ in found} == set(bad)
    assert told == [(8, 8)]
    assert notes == {"alpha dropped": 1}
    for i in range(len(data)):
        if data.path(i) in bad:
            with pytest.raises(PictureError):
                data[i]
        else:
            assert data[i].image.shape[2] == 3


def test_usable_skips_and_names_them(spoilt: tuple[Path, list[Path]]) -> None:
    root, bad = spoilt
    data = usable(ImageFolder(root, "train"))
    assert len(data) == len(data.labels) == 4
    assert {path for path, _ in data.skipped} == set(bad)
    assert all(data[i].targets["label"] == data.labels[i] for i in range(4))
    for strict in (lambda: usable(ImageFolder(root), strict=True), lambda: ImageFolder(root, strict=True)):
        with pytest.raises(DataError, match="3 of 7 pictures cannot be used") as error:
            strict()
        assert all(str(path) in str(error.value) for path in bad)


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        picture(tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match="no picture of split 'all' can be used"):
        usable(ImageFolder(tmp_path, "all"))


def test_find_pictures(root: Path) -> None:
    odd = root / "no_suffix"
    picture(root / "train/ants/a1.png").rename(odd)
    picture(root / "train/ants/a1.png")
    found = find_pictures([odd, root / "valid", str(root / "train" / "*" / "a*"), root / "valid/ants/a3.png"])
    names = [path.name for path in found]
    assert names == ["no_suffix", "a3.png", "b3.png", "a1.png", "a2.webp"]
    with pytest.raises(DataError, match=r"nothing\.png: no file, folder or pattern"):
        find_pictures([root / "nothing.png"])
    (root / "hollow").mkdir()
    with pytest.raises(DataError, match="hollow: a folder without pictures"):
        find_pictures([root / "hollow"])
