"""Masks of classes: exact from file to sample, counted, and one data set as all others."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from class_masks import blobs, pair, pairs, picture, save, whole
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mutations import MUTANTS, survives

from retinue.datasets.check import check
from retinue.datasets.formats import describe, numbered, open_splits
from retinue.datasets.mask_pairs import MaskPairs, splits
from retinue.datasets.pictures import orient
from retinue.datasets.scan import usable
from retinue.datasets.targets import IGNORE, ClassMap, DataError, collate

# Exactness


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 300)),
    st.booleans(),
)
def test_masks_come_back_and_are_counted(
    tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray, deep: bool
) -> None:
    root = tmp_path_factory.mktemp("masks")
    mask = mask if deep else (mask % 9).astype(np.uint8)
    pairs(root, {"a": mask, "b": np.full((2, 3), 7, mask.dtype)})
    data = whole(root)
    ids = [value for value in np.unique(np.append(mask, 7)).tolist() if value != IGNORE]
    assert data.classes == ClassMap(tuple(map(str, ids)), tuple(ids))
    truth = data[0].targets["semantic"]
    assert truth.dtype == np.int64 and set(np.unique(truth)) <= {*range(len(ids)), IGNORE}
    assert (np.append(ids, [IGNORE] * 256)[truth] == mask).all()
    counts = [np.count_nonzero(mask == value) + 6 * (value == 7) for value in ids]
    assert data.pixel_counts().tolist() == counts and data.ignored == np.count_nonzero(mask == IGNORE)
    assert data.class_counts().tolist() == [int((mask == value).any()) + (value == 7) for value in ids]


def test_a_sample_and_its_batch(tmp_path: Path) -> None:
    mask = blobs([0, 1, 255])
    pairs(tmp_path, {"a": mask})
    data = whole(tmp_path, "0:road,1:sky")
    sample = data[-1]
    assert sample.id == "images/train/a.png" and sample.image.shape == (60, 80, 3)
    assert sample.targets.keys() == data.keys == {"semantic"} and (sample.targets["semantic"] == mask).all()
    _, (target,) = collate([sample])
    assert str(target["semantic"].dtype) == "torch.int64"
    again = pickle.loads(pickle.dumps(data))
    assert (again[0].targets["semantic"] == mask).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_made_without_exif_are_turned_with_the_picture(tmp_path: Path, orientation: int) -> None:
    mask = blobs([0, 1, 2])
    picture(tmp_path / "images/train/a.jpg", (60, 80), orientation)
    save(tmp_path / "masks/train/a.png", mask)
    data = whole(tmp_path)
    sample = data[0]
    turned = orientation >= 5
    assert (sample.targets["semantic"] == (orient(mask, orientation) if turned else mask)).all()
    assert [problem.kind for problem in data.problems()] == ["EXIF orientation"] * turned


def test_a_file_that_changes_after_the_look(tmp_path: Path) -> None:
    pairs(tmp_path, {"a": blobs([0, 1])})
    data = whole(tmp_path)
    save(tmp_path / "masks/train/a.png", blobs([0, 1, 3]))
    with pytest.raises(DataError, match=r"a\.png: holds 3 now; the file changed: start again"):
        data[0]
    save(tmp_path / "masks/train/a.png", blobs([0, 1], (30, 80)))
    with pytest.raises(DataError, match="is of another size"):
        data[0]


@MUTANTS
def test_mutants(tmp_path: Path, count: int) -> None:
    pairs(tmp_path, {"a": blobs([0, 1, 2], (20, 30)), "b": blobs([0, 1], (20, 30))})
    (tmp_path / "classes.txt").write_text("0 road\n1 sky\n2 car\n")

    def use() -> None:
        data = whole(tmp_path)
        list(data.problems())
        for i in range(len(data)):
            assert set(np.unique(data[i].targets["semantic"])) <= {0, 1, 2, IGNORE}

    survives(tmp_path / "masks/train/a.png", tmp_path, use, count)


# As every data set


def three(root: Path) -> MaskPairs:
    pairs(root, {"a": blobs([0, 1]), "b": blobs([1, 2]), "c": blobs([0, 2, 255])})
    return whole(root, "0:road,1:sky,2:car,3:tree")


def test_parts_keep_their_counts(tmp_path: Path) -> None:
    data = three(tmp_path)
    rows = [[np.count_nonzero(data[i].targets["semantic"] == k) for k in range(4)] for i in range(3)]
    assert data.picture_counts().tolist() == rows
    first = data.select(np.array([True, False, False]))
    assert first.class_counts().tolist() == [1, 1, 0, 0] and first.ignored == 0
    assert (data.pixel_counts() == sum(data.select(np.array([i])).pixel_counts() for i in range(3))).all()
    left = data.without([(data.path(0), "not wanted")])
    assert len(left) == 2 and left.mask_path(0).name == "b.png" and left.skipped[-1][1] == "not wanted"
    (tmp_path / "images/train/b.png").write_bytes(b"")
    assert [path.name for path, _ in usable(data).skipped] == ["b.png"]


def test_a_models_classes(tmp_path: Path) -> None:
    data = three(tmp_path)
    other = data.with_classes(ClassMap(("car", "truck", "sky", "road")))
    assert other.classes.names == ("car", "truck", "sky", "road")
    before, after = data[2].targets["semantic"], other[2].targets["semantic"]
    assert (np.array([3, 2, 0, -1])[np.minimum(before, 3)] == after)[before < IGNORE].all()
    assert (after[before == IGNORE] == IGNORE).all()
    assert other.pixel_counts().tolist() == data.pixel_counts()[[2, 3, 1, 0]].tolist()
    with pytest.raises(
        DataError, match=r"the classes \['sky'\] of split 'train' are not among \['road', 'car'\]"
    ):
        data.with_classes(ClassMap(("road", "car")))
    opened = open_splits(str(tmp_path), keys=data.keys, values="0:road,1:sky,2:car")["train"]
    assert (numbered(opened, other.classes, semantic=True)[2].targets["semantic"] == after).all()


def test_the_shares_of_the_classes_are_described(tmp_path: Path) -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[:3], mask[3] = 1, 255
    pairs(tmp_path, {"a": mask})
    lines = describe({"train": whole(tmp_path, "0:road,1:sky,4:car")}).splitlines()
    assert lines == [
        "format   mask_pairs, targets semantic",
        "classes  3: 0 road (id 0), 1 sky (id 1), 2 car (id 4)",
        "train    1 pictures: road 60.00%, sky 30.00%, car 0.00%; ignored 10.00%",
    ]


def test_doubts_are_problems(tmp_path: Path) -> None:
    mask = np.full((60, 80), 255, np.uint8)
    ring = np.zeros((60, 80), np.uint8)
    ring[20:40, 20:40], ring[21:39, 21:39] = 1, 2
    pairs(tmp_path, {"a": mask, "b": ring, "c": mask})
    data = whole(tmp_path)
    assert [(problem.kind, os.path.basename(problem.file)) for problem in data.problems()] == [
        ("in-between values", "b.png"),
        ("much ignored", "train"),
        ("nothing labelled", "a.png"),
        ("nothing labelled", "c.png"),
    ]
    assert "1 masks may have been resized by interpolation; retinue check names them" in data.remarks


def test_near_values_are_doubtful(tmp_path: Path) -> None:
    mask = np.where(blobs([0, 1], (200, 200)), 128, 0).astype(np.uint8)
    mask[0, :2] = 127
    mask[0, 2] = 64
    pairs(tmp_path, {"a": mask})
    (problem,) = whole(tmp_path).problems()
    assert problem.kind == "near values" and "127 (2 pixels) beside 128 (" in problem.value
    assert not list(whole(tmp_path, "0:a,64:b,127:c,128:d").problems())


def test_the_same_picture_under_two_masks(tmp_path: Path) -> None:
    pairs(tmp_path, {"a": blobs([0, 1]), "b": blobs([0, 1], seed=1)})
    folder = tmp_path / "images/train"
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    report = check({"train": whole(tmp_path)})
    assert [(problem.level, problem.kind) for problem in report.problems] == [
        ("warning", "remark"),
        ("error", "two annotations"),
        ("warning", "duplicate"),
    ]
    assert report.problems[1].value.endswith("but another mask")
    save(tmp_path / "masks/train/b.png", blobs([0, 1]))
    assert not check({"train": whole(tmp_path)}).errors


def test_a_class_that_val_lacks(tmp_path: Path) -> None:
    pairs(tmp_path, {"a": blobs([0, 1, 2])})
    pair(tmp_path, "val/b", blobs([0, 1]))
    report = check(splits(str(tmp_path), "0:road,1:sky,2:car,3:tree"))
    assert [(p.level, p.kind, p.file, p.value) for p in report.problems] == [
        ("warning", "missing class", "train", "no pictures of class 'tree'"),
        ("warning", "missing class", "val", "no pictures of class 'car'"),
        ("warning", "missing class", "val", "no pictures of class 'tree'"),
    ]
