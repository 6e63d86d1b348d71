"""Checking a data set: each fault is found once, named, and a sound set has none."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinue.datasets.annotations import Annotations
from retinue.datasets.check import Problem, check
from retinue.datasets.formats import open_splits
from retinue.datasets.image_folder import ImageFolder
from retinue.datasets.objects import ObjectPictures
from retinue.datasets.scan import usable
from retinue.datasets.targets import ClassMap


def picture(path: Path, seed: int, size: tuple[int, int] = (24, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(
        ["train/a/1.png", "train/a/2.png", "train/b/3.png", "train/b/4.png", "val/a/5.png", "val/b/6.png"]
    ):
        picture(tmp_path / name, seed)
    return tmp_path


def found(root: Path) -> list[tuple[str, str, str]]:
    problems = check(open_splits(str(root))).problems
    return [(problem.level, problem.kind, Path(problem.file).name) for problem in problems]


def test_a_sound_set_has_no_problems(root: Path) -> None:
    told: list[tuple[int, int]] = []
    report = check(open_splits(str(root)), lambda done, total: told.append((done, total)))
    assert report.problems == []
    assert report.summary() == "checked train 4, val 2 pictures: 0 errors, 0 warnings"
    assert told[-1] == (6, 6)


def test_the_scenes_are_sound() -> None:
    report = check({"val": open_splits("scenes:10")["val"]})
    assert report.errors == []


def test_unreadable(root: Path) -> None:
    cut = root / "train/a/1.png"
    cut.write_bytes(cut.read_bytes()[:100])
    assert found(root) == [("error", "unreadable", "1.png")]
    problem = check(open_splits(str(root))).problems[0]
    assert "truncated" in problem.value and problem.file == str(cut) and "replace" in problem.remedy
    left = usable(ImageFolder(root, "train"))
    assert [(p.kind, p.file) for p in check({"train": left}).errors] == [("unreadable", str(cut))]


def test_copies(root: Path) -> None:
    # the same pixels in other bytes, too
    Image.open(root / "train/a/1.png").save(root / "train/a/again.bmp")
    Image.open(root / "train/a/1.png").save(root / "val/a/leak.tiff")
    Image.open(root / "train/a/1.png").save(root / "train/b/wrong.png")
    assert set(found(root)) == {
        ("warning", "duplicate", "again.bmp"),
        ("warning", "leak", "leak.tiff"),
        ("error", "two labels", "wrong.png"),
        ("warning", "duplicate", "wrong.png"),
    }
    wrong = next(p for p in check(open_splits(str(root))).problems if p.kind == "two labels")
    assert wrong.value == f"'b', but 'a' as {root / 'train/a/1.png'}"


def test_missing_and_rare_classes(root: Path) -> None:
    (root / "val/b/6.png").unlink()
    (root / "val/b").rmdir()
    assert found(root) == [("warning", "missing class", "val")]
    for i in range(22):
        picture(root / "train/a" / f"more{i}.png", 100 + i)
    (problem,) = [p for p in check(open_splits(str(root))).problems if p.kind == "imbalance"]
    assert problem.value == "'a' has 24 pictures, 'b' only 2"


def test_sizes(root: Path) -> None:
    picture(root / "train/a/tiny.png", 50, (40, 15))
    picture(root / "train/a/long.png", 51, (400, 20))
    picture(root / "train/a/just.png", 52, (160, 16))
    assert set(found(root)) == {("warning", "tiny", "tiny.png"), ("warning", "very long", "long.png")}


def test_odd_files_are_counted(root: Path) -> None:
    Image.new("CMYK", (20, 20), (1, 2, 3, 4)).save(root / "train/a/cmyk.jpg")
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (20, 30), (9, 8, 7)).save(root / "train/a/turned.jpg", exif=exif)
    report = check(open_splits(str(root)))
    assert report.notes == {"CMYK converted to RGB": 1, "EXIF orientation 6 applied": 1}
    assert "note: 1 pictures: CMYK converted to RGB" in report.summary()


def test_a_data_set_adds_its_own_problems(root: Path) -> None:
    class Boxes(ImageFolder):
        def problems(self) -> Iterator[Problem]:
            yield Problem("error", "empty box", "a.xml", "[3, 3, 3, 9]", "remove it")

    report = check({"train": Boxes(root, "train")})
    assert [str(problem) for problem in report.errors] == ["error: empty box: a.xml: [3, 3, 3, 9]; remove it"]


def test_json_is_plain(root: Path) -> None:
    (root / "train/a/1.png").write_bytes(b"")
    value = json.loads(json.dumps(check(open_splits(str(root))).to_json()))
    assert value["errors"] == 1 and value["warnings"] == 0
    assert value["pictures"] == {"train": 4, "val": 2}
    assert value["problems"][0]["kind"] == "unreadable"


def test_summary_is_short(root: Path) -> None:
    for i in range(30):
        (root / "train/a" / f"empty{i}.png").write_bytes(b"")
    lines = check(open_splits(str(root))).summary(most=5).splitlines()
    assert lines[-1] == "... and 25 more of unreadable"
    assert len(lines) < 10


def objects(
    root: Path, split: str, names: list[str], box: list[float], size: tuple[int, int] = (0, 0)
) -> ObjectPictures:
    """Pictures with one object each."""
    annotations = Annotations(
        np.array(names, np.bytes_),
        np.arange(len(names) + 1),
        np.tile(box, (len(names), 1)),
        np.zeros(len(names), np.int64),
        sizes=np.tile(size, (len(names), 1)).astype(np.int32),
    )
    return ObjectPictures(root, split, annotations, ClassMap(("ant", "bee")))


def test_objects_on_the_same_pixels(tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "3.png"):
        picture(tmp_path / name, 1)
    splits = {
        "train": objects(tmp_path, "train", ["1.png", "2.png"], [1, 1, 5, 5]),
        "val": objects(tmp_path, "val", ["3.png"], [1, 1, 5, 6]),
    }
    problems = [(p.level, p.kind, Path(p.file).name) for p in check(splits).problems]
    assert problems == [
        ("warning", "missing class", "train"),
        ("warning", "missing class", "val"),
        ("warning", "duplicate", "2.png"),
        ("error", "two annotations", "3.png"),
        ("warning", "leak", "3.png"),
    ]
    assert check(splits).problems[0].value == "no objects of class 'bee'"


def test_the_order_of_objects_does_not_matter(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", 1)
    picture(tmp_path / "2.png", 1)
    boxes = np.array([[0, 0, 5, 5], [1, 1, 6, 6], [1, 1, 6, 6], [0, 0, 5, 5]], float)
    labels = np.array([0, 1, 1, 0])
    annotations = Annotations(np.array([b"1.png", b"2.png"]), np.array([0, 2, 4]), boxes, labels)
    data = ObjectPictures(tmp_path, "train", annotations, ClassMap(("ant", "bee")))
    assert [problem.kind for problem in check({"train": data}).problems] == ["duplicate"]


def test_a_problem_that_a_data_set_names_is_told_once(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", 1, (24, 20))
    picture(tmp_path / "2.png", 2, (30, 24))
    data = objects(tmp_path, "train", ["1.png", "2.png"], [1, 1, 5, 5], (20, 24))
    assert [problem.kind for problem in check({"train": data}).errors] == ["size mismatch"]
