"""Finding out what format a data set is in, and saying so."""

from pathlib import Path

import pytest
from PIL import Image

from retinue.datasets.formats import describe, evaluation_split, format_modules, open_splits
from retinue.datasets.targets import ClassMap, DataError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for label, name in enumerate(("ants", "bees")):
            for i in range(2):
                path = tmp_path / "insects" / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (20, 20), 10 * i + label).save(path)
    return tmp_path / "insects"


def test_formats_are_found_by_themselves() -> None:
    found = list(format_modules())
    assert found == sorted(found)
    assert {"csv_list", "image_folder", "scenes"} <= set(found)


def test_an_image_folder_is_opened_and_described(root: Path) -> None:
    found = open_splits(str(root))
    assert list(found) == ["train", "test"]
    assert evaluation_split(found) == "test"
    lines = describe(found).splitlines()
    assert lines == [
        "format   image_folder, targets label",
        "classes  2: 0 ants, 1 bees",
        "train    4 pictures: ants 2, bees 2",
        "test     4 pictures: ants 2, bees 2",
    ]


def test_the_embedded_scenes() -> None:
    found = open_splits("scenes:10")
    assert evaluation_split(found) == "val"
    assert describe(found).startswith("format   scenes, targets")
    assert {"boxes", "depth", "semantic"} <= found["train"].keys


def test_nothing_found_says_what_was_tried(tmp_path: Path, root: Path) -> None:
    with pytest.raises(DataError) as error:
        open_splits(str(tmp_path / "insect"))
    assert f"{tmp_path / 'insect'} does not exist, did you mean 'insects'?" in str(error.value)
    assert "image_folder: " in str(error.value) and "csv_list: " in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds nothing"):
        open_splits(str(tmp_path / "empty"))
    (tmp_path / "words.txt").write_text("words")
    with pytest.raises(DataError, match=r"words\.txt is a file of 5 bytes"):
        open_splits(str(tmp_path / "words.txt"))


def test_two_formats_ask_for_one(root: Path) -> None:
    (root / "train.csv").write_text("image,label\ntrain/ants/0.png,ant\n")
    with pytest.raises(DataError, match="could be csv_list or image_folder; choose one with format=NAME"):
        open_splits(str(root))
    assert len(open_splits(str(root), format="csv_list")["train"]) == 1
    assert len(open_splits(str(root), format="image_folder")["train"]) == 4
    with pytest.raises(DataError, match="unknown, did you mean 'image_folder'"):
        open_splits(str(root), format="imagefolder")


def test_a_fault_in_the_only_format_that_fits_is_told(root: Path) -> None:
    (root / "train" / "wasps").mkdir()
    with pytest.raises(DataError, match="'wasps' has no pictures"):
        open_splits(str(root))


def test_given_classes_number_the_labels(root: Path) -> None:
    classes = ClassMap(("bees", "wasps", "ants"), ("bees", "wasps", "ants"))
    found = open_splits(str(root), classes)
    assert found["train"].labels.tolist() == [2, 2, 0, 0]
    assert found["train"].classes == classes
    with pytest.raises(DataError, match=r"\['bees'\] of split 'train' are not among \['ants'\]"):
        open_splits(str(root), ClassMap(("ants",), ("ants",)))
    with pytest.raises(DataError, match=r"only in the data .*'sphere'.*only asked for \['ants'\]"):
        open_splits("scenes:10", ClassMap(("ants",)))


def test_evaluation_needs_a_split() -> None:
    with pytest.raises(DataError, match=r"only \['train'\]"):
        evaluation_split({"train": open_splits("scenes:10")["train"]})


@pytest.mark.skipif(not (DATA / "hymenoptera_data").is_dir(), reason="shared/data/hymenoptera_data is absent")
def test_hymenoptera() -> None:
    found = open_splits(str(DATA / "hymenoptera_data"))
    assert {name: len(part) for name, part in found.items()} == {"train": 120, "val": 153}
    assert found["val"].class_counts().tolist() == [70, 83]
    sample = found["val"][100]
    assert sample.id.startswith("val/bees/") and sample.targets["label"] == 1


@pytest.mark.skipif(not (DATA / "cifar10_jpg").is_dir(), reason="shared/data/cifar10_jpg is absent")
def test_cifar10() -> None:
    found = open_splits(str(DATA / "cifar10_jpg"))
    assert {name: part.class_counts().tolist() for name, part in found.items()} == {
        "train": [100] * 10,
        "test": [100] * 10,
    }


@pytest.mark.parametrize("name", ["camvid", "BCCD", "PennFudanPed", "coco_mini", "rgbd_tsdf"])
def test_other_formats_are_no_image_folders(name: str) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"shared/data/{name} is absent")
    for format in ("image_folder", "csv_list"):
        assert format_modules()[format].splits(str(DATA / name)) == {}
