"""Finding out what format a data set is in, and saying so."""

from pathlib import Path

import pytest
from class_masks import blobs, pair
from PIL import Image

from retinue.datasets.formats import describe, evaluation_split, format_modules, numbered, open_splits
from retinue.datasets.scenes import Scenes
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
    train = open_splits(str(root))["train"]
    found = numbered(train, classes)
    assert found.labels.tolist() == [2, 2, 0, 0] and found.classes == classes
    with pytest.raises(DataError, match=r"\['bees'\] of split 'train' are not among \['ants'\]"):
        numbered(train, ClassMap(("ants",), ("ants",)))
    with pytest.raises(DataError, match=r"only in the data .*'sphere'.*only in the model \['ants'\]"):
        numbered(open_splits("scenes:10")["val"], ClassMap(("ants",)))


def test_evaluation_needs_a_split() -> None:
    with pytest.raises(DataError, match=r"only \['train'\]"):
        evaluation_split({"train": open_splits("scenes:10")["train"]})


# Needed keys, and what masks hold


def test_of_several_formats_those_with_the_needed_keys_count(tmp_path: Path) -> None:
    for i, split in enumerate(("train", "val")):
        pair(tmp_path, f"{split}/{i}", blobs([0, 1]), ("images", "masks"))
    (tmp_path / "train.csv").write_text("image,label\nimages/train/0.png,a\n")
    semantic = frozenset({"semantic"})
    assert open_splits(str(tmp_path))["train"].keys == {"label"}
    assert open_splits(str(tmp_path), keys=frozenset({"label"}))["train"].keys == {"label"}
    assert open_splits(str(tmp_path), keys=semantic)["train"].keys == semantic
    assert open_splits(str(tmp_path), format="csv_list", keys=semantic)["train"].keys == {"label"}


def test_masks_are_not_read_where_another_format_gives_what_is_needed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(source: str, values: str | None = None) -> None:
        raise AssertionError(f"{source} was read in vain")

    for name in ("mask_pairs", "voc_semantic"):
        monkeypatch.setattr(format_modules()[name], "splits", read)
    assert len(open_splits(str(root))) == len(open_splits(str(root), keys=frozenset({"label"}))) == 2


def test_a_key_that_no_format_gives_leaves_what_there_is(root: Path, tmp_path: Path) -> None:
    """So that the mismatch can be named; but a fault in a format that would have given it goes before."""
    semantic = frozenset({"semantic"})
    assert open_splits(str(root), keys=semantic)["train"].keys == {"label"}
    pair(tmp_path, "train/0", blobs([0, 9]), ("images", "masks"))
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    (tmp_path / "train.csv").write_text("image,label\nimages/train/0.png,a\n")
    assert open_splits(str(tmp_path))["train"].keys == {"label"}
    with pytest.raises(DataError, match=r"1 masks have values that .*classes\.txt does not name"):
        open_splits(str(tmp_path), keys=semantic)


def test_values_are_for_masks_alone(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="format=image_folder has no masks of classes; leave values= out"):
        open_splits(str(root), format="image_folder", values="0:a")
    for source, name in ((str(root), "image_folder"), ("scenes:10", "scenes")):
        with pytest.raises(DataError, match=f"is {name}, which has no masks of classes; leave values="):
            open_splits(source, values="0:a")
    with pytest.raises(DataError, match=r"no data set found(.|\n)*mask_pairs: Masks of classes"):
        open_splits(str(tmp_path / "none"), values="0:a")
    pair(tmp_path / "m", "train/0", blobs([0, 7]), ("images", "masks"))
    assert open_splits(str(tmp_path / "m"), values="0:a,7:b")["train"].classes.names == ("a", "b")


def test_given_classes_number_semantic_where_it_is_needed() -> None:
    scenes = open_splits("scenes:10", keys=frozenset({"semantic"}))["train"]
    assert numbered(scenes, Scenes.semantic_classes, semantic=True) is scenes
    assert numbered(scenes, Scenes.classes) is scenes
    with pytest.raises(DataError, match=r"only in the data \['background', 'sphere'"):
        numbered(scenes, ClassMap(("ants",)), semantic=True)


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
