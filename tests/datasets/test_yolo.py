"""YOLO txt: the layouts that people have, every kind of line, and what is wrong with each."""

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mutations import MUTANTS, survives

from retinue.datasets import yolo
from retinue.datasets.targets import DataError
from retinue.datasets.yolo import label_path
from retinue.datasets.yolo_txt import part, read_lines


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((20, 40, 3), value, np.uint8))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


DATA = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"


def layout(root: Path, yaml: str = DATA, **labels: str) -> Path:
    """images/<split>/<stem>.png and labels alike, for keywords <split>_<stem>="lines"; "-" writes no label file."""
    for i, (key, lines) in enumerate(labels.items()):
        place = key.replace("_", "/", 1)
        picture(root / f"images/{place}.png", i)
        if lines != "-":
            write(root / f"labels/{place}.txt", lines)
    write(root / "data.yaml", yaml)
    return root


BOX = "1 0.5 0.5 0.25 0.5\n"


def test_boxes_negatives_and_the_layout_of_ultralytics(tmp_path: Path) -> None:
    root = layout(
        tmp_path, train_a=BOX + "\n0 0.25 0.25 0.5 0.5", train_b="", train_c="-", val_d="0.0 1 1 0 0\n" + BOX
    )
    for source in (root, root / "data.yaml"):
        found = yolo.splits(str(source))
        assert {name: len(part) for name, part in found.items()} == {"train": 3, "val": 1}
    train = found["train"]
    assert (train.classes.names, train.classes.ids) == (("cat", "dog"), (0, 1))
    assert [train.id(i) for i in range(3)] == [f"images/train/{stem}.png" for stem in "abc"]
    assert train[0].targets["boxes"].tolist() == [[15, 5, 25, 15], [0, 0, 20, 10]]
    assert train[0].targets["box_labels"].tolist() == [1, 0]
    assert train[1].targets["boxes"].shape == train[2].targets["boxes"].shape == (0, 4)
    assert train.empty == 2 and train.keys == {"boxes", "box_labels"}
    assert train.remarks == ["1 pictures without a label file are taken as empty"]
    assert found["val"].annotations.boxes.tolist() == [[15, 5, 25, 15]]
    assert [problem.kind for problem in found["val"].problems()] == ["degenerate box"]


def test_outlines_get_boxes_around_them_and_may_stand_beside_boxes(tmp_path: Path) -> None:
    root = layout(tmp_path, train_a="0 0.25 0.1 0.75 0.1 0.5 0.9\n" + BOX, val_b=BOX)
    found = yolo.splits(str(root))
    sample = found["train"][0]
    assert sample.targets["boxes"].tolist() == [[10, 2, 30, 18], [15, 5, 25, 15]]
    outlines = found["train"].annotations.segments
    assert outlines is not None
    np.testing.assert_allclose(outlines.written(0), [[10, 2, 30, 2, 20, 18]], atol=1e-12)
    assert outlines.written(1) is None
    triangle, nothing = sample.targets["masks"]
    assert 120 < triangle.sum() < 200 and triangle[3, 20] and not nothing.any()
    assert found["train"].remarks == ["1 of 2 objects have no outline, so their masks are empty"]
    assert found["val"].keys == found["train"].keys == {"boxes", "box_labels", "masks", "semantic"}


def test_keypoints_and_what_a_flip_exchanges(tmp_path: Path) -> None:
    yaml = DATA + "kpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\n"
    line = "0 0.5 0.5 0.5 0.5 0.5 0.5 2 0.25 0.5 1 0 0 0\n"
    found = yolo.splits(str(layout(tmp_path, yaml, train_a=line, val_b="")))
    assert found["train"][0].targets["keypoints"].tolist() == [[[20, 10, 2], [10, 10, 1], [0, 0, 0]]]
    assert found["val"][0].targets["keypoints"].shape == (0, 3, 3)
    assert found["val"].classes.keypoints["pairs"] == [[1, 2]]
    assert len(found["val"].classes.keypoints["sigmas"]) == len(found["val"].classes.keypoints["names"]) == 3


def test_keypoints_without_visibility(tmp_path: Path) -> None:
    yaml = DATA + "kpt_shape: [2, 2]\nkpt_names: {0: [eye, nose]}\n"
    found = yolo.splits(str(layout(tmp_path, yaml, train_a="0 0.5 0.5 0.5 0.5 0.25 0.5 0 0\n", val_b="")))
    assert found["train"][0].targets["keypoints"].tolist() == [[[10, 10, 2], [0, 0, 0]]]
    assert found["train"].classes.keypoints["names"] == ["eye", "nose"]


def test_the_layout_of_roboflow(tmp_path: Path) -> None:
    yaml = (
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['cat', 'dog']\n"
    )
    write(tmp_path / "data.yaml", yaml)
    for i, split in enumerate(("train", "valid")):
        picture(tmp_path / split / "images/a.png", i)
        write(tmp_path / split / "labels/a.txt", BOX)
    found = yolo.splits(str(tmp_path))
    assert [part.id(0) for part in found.values()] == ["train/images/a.png", "valid/images/a.png"]


def test_lists_of_pictures_and_several_folders(tmp_path: Path) -> None:
    yaml = "train: [images/train, more.txt]\nval: lists/val.txt\nnames: [cat, dog]\n"
    root = layout(tmp_path, yaml, train_a=BOX, other_b=BOX, other_c=BOX)
    write(
        root / "more.txt",
        f"./images/other/b.png\n\nimages/train/a.png\n{root}/images/other/b.png\nimages/gone.png\n",
    )
    write(root / "lists/val.txt", "images/other/c.png\n")
    found = yolo.splits(str(root))
    assert [found["train"].id(i) for i in range(2)] == ["images/train/a.png", "images/other/b.png"]
    assert len(found["train"]) == 2 and found["val"].id(0) == "images/other/c.png"
    ((file, reason),) = found["train"].skipped
    assert file == root / "images/gone.png" and "more.txt:5 names it" in reason


def test_data_that_were_moved_or_lie_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = layout(tmp_path / "data", DATA.replace("path: .", "path: /no/such/place"), train_a=BOX, val_b=BOX)
    assert len(yolo.splits(str(root))["train"]) == 1
    too_long = write(root / "long.yaml", DATA.replace("path: .", f"path: {'x' * 300}"))
    assert len(yolo.splits(str(too_long))["train"]) == 1
    apart = write(tmp_path / "apart.yaml", DATA.replace("path: .", "path: data"))
    assert yolo.splits(str(apart))["train"].path(0) == root / "images/train/a.png"
    monkeypatch.chdir(root)
    assert len(yolo.splits("data.yaml")["val"]) == len(yolo.splits(".")["val"]) == 1
    write(Path("data.yaml"), DATA.replace("images/train", "../data2/images"))
    with pytest.raises(DataError, match="outside"):
        yolo.splits("data.yaml")


def test_labels_lie_as_the_pictures_do() -> None:
    assert label_path("images/train/a.b.jpg") == "labels/train/a.b.txt"
    assert label_path("train/images/a.jpg") == "train/labels/a.txt"
    assert label_path("images/images/a.jpg") == "images/labels/a.txt"
    assert label_path("photos/a.jpg") == "photos/a.txt"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.5", "4 fields, not 5"),
        ("0 0.5 0.5 0.5 0.5 0.9", "a confidence"),
        ("0 0.5 0.5 0.5 0.5 0.5 0.5 0.5", "8 fields"),
        ("0 0.5 nan 0.5 0.5", "'nan' is no number"),
        ("0 0.5 1e999 0.5 0.5", "'1e999' is no number"),
        ("0 0.5 half 0.5 0.5", "'half' is no number"),
        ("cat 0.5 0.5 0.5 0.5", "'cat' is no number"),
        ("0.5 0.5 0.5 0.5 0.5", "class '0.5' is no whole number"),
        ("0 20 10 5 5", "20 is not in [0, 1]; coordinates are parts"),
        ("0 0.5 0.5 0.5 -0.5", "-0.5 is not in [0, 1]"),
        ("0 0.5 0.5 0.5 0.5 1.5 0.5", "1.5 is not in [0, 1]"),
    ],
)
def test_a_bad_line_is_skipped_by_name(tmp_path: Path, line: str, message: str) -> None:
    root = layout(tmp_path, train_good=BOX, train_bad=BOX + line, val_c=BOX)
    bad = root / "labels/train/bad.txt"
    with pytest.raises(DataError) as error:
        read_lines(bad, {0, 1}, None)
    assert message in str(error.value) and f"{bad}:2: " in str(error.value)
    found = yolo.splits(str(root))
    assert [found["train"].id(i) for i in range(len(found["train"]))] == ["images/train/good.png"]
    ((file, reason),) = found["train"].skipped
    assert file == bad and message in reason and reason.startswith("2: ")


@pytest.mark.parametrize("line", ["2 0.5 0.5 0.5 0.5", "-1 0.5 0.5 0.5 0.5", "1e300 0.5 0.5 0.5 0.5"])
def test_a_class_that_the_yaml_lacks_stops(tmp_path: Path, line: str) -> None:
    root = layout(tmp_path, train_a=BOX, val_b=BOX + line)
    with pytest.raises(DataError, match=r"labels/val/b.txt:2: class .* is not in the yaml"):
        yolo.splits(str(root))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.5 0.5 0.5 0.5 2", "8 fields, not 11"),
        ("0 0.5 0.5 0.5 0.5 0.5 0.5 3 0 0 0", "visibilities [3.0, 0.0]"),
        ("0 0.5 0.5 0.5 0.5 0.5 7 2 0 0 0", "7 is not in [0, 1]"),
    ],
)
def test_bad_keypoints(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_lines(write(tmp_path / "a.txt", line), {0}, (2, 3))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        (DATA.replace("0: cat", "0: [cat]"), "the name of class 0 is a list"),
        (DATA.replace("0: cat", "zero: cat"), "names has the key 'zero'"),
        (DATA.replace("0: cat", "0: dog"), "['dog'] are given twice"),
        (DATA + "nc: 3\n", "nc is 3, but there are 2 names"),
        (DATA + "nc: many\n", "nc is 'many'"),
        (DATA.replace("names:\n  0: cat\n  1: dog", "names:"), "names is ''"),
        (DATA.replace("images/val", "images/value"), "images/value"),
        (DATA.replace("images/val", "{a: b}"), "val is a dict"),
        (DATA.replace("images/val", "../../etc/passwd"), "(outside)"),
        (DATA.replace("images/val", "/etc/passwd"), "/etc/passwd (outside)"),
        (DATA.replace("images/val", "data.yaml"), "data.yaml"),
        (DATA + "kpt_shape: [17]\n", "kpt_shape is a list"),
        (DATA + "kpt_shape: [17, 4]\n", "kpt_shape is [17, 4]"),
        (DATA + "kpt_shape: [3, 3]\nflip_idx: [0, 1, 1]\n", "flip_idx must hold each number from 0 to 2"),
        (DATA + "kpt_shape: [3, 3]\nflip_idx: [1, 2, 0]\n", "flipping twice"),
        (DATA + "validation: images/val\n", "names val twice"),
        (DATA + "{", "cannot be read as yaml"),
        (DATA + "a: " + "[" * 3000, "more than 500 brackets"),
        (DATA + "a: \x01", "cannot be read as yaml"),
        ("train: images/train\nnames: [cat, dog]\n- 1\n", "cannot be read as yaml"),
        ("-\n  train: images/train\n  names: [cat]\n", "is no mapping"),
        (DATA + "#" * 200_000, "larger than 64 kB"),
    ],
)
def test_a_bad_yaml_is_named(tmp_path: Path, yaml: str, message: str) -> None:
    root = layout(tmp_path, yaml, train_a=BOX, val_b=BOX)
    with pytest.raises(DataError) as error:
        yolo.splits(str(root / "data.yaml"))
    assert message in str(error.value) and str(root / "data.yaml") in str(error.value)


def test_words_stay_words(tmp_path: Path) -> None:
    yaml = "train: images/train\nval: images/val\nnames: [no, 1e3, 2024-01-01, 'null']\n"
    found = yolo.splits(str(layout(tmp_path, yaml, train_a=BOX, val_b=BOX)))
    assert found["train"].classes.names == ("no", "1e3", "2024-01-01", "null")
    (tmp_path / "holes.yaml").write_text("train: images/train\nnames: {1: one, 7: seven}\n")
    found = yolo.splits(str(tmp_path / "holes.yaml"))
    assert found["train"].classes.ids == (1, 7) and found["train"][0].targets["box_labels"] == [0]


def test_hostile_yaml_is_text(tmp_path: Path) -> None:
    bomb = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    objects = "b: !!python/object/apply:os.system ['touch touched']\n"
    root = layout(tmp_path, "a0: &a0 [x]\n" + bomb + objects + DATA, train_a=BOX, val_b=BOX)
    start = time.process_time()
    assert len(yolo.splits(str(root))) == 2
    with pytest.raises(DataError, match="the name of class 0 is a list"):
        yolo.splits(str(layout(tmp_path, "a0: &a0 [x]\n" + bomb + DATA.replace("cat", "*a29"))))
    assert time.process_time() - start < 1 and not Path("touched").exists()


def test_no_label_file_at_all_names_the_paths_that_were_tried(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no picture of train has a label file; tried .*labels/train/a.txt"):
        yolo.splits(str(layout(tmp_path, train_a="-", val_b=BOX)))
    root = layout(tmp_path, DATA + "test: images/test\n", train_a=BOX, val_b=BOX, test_c="-")
    assert list(yolo.splits(str(root))) == ["train", "val"]


@pytest.mark.parametrize(
    "line", ["../outside.png", "/etc/passwd", "/etc/outside.png", "images/../../outside.png"]
)
def test_a_list_that_leads_outside_is_refused(tmp_path: Path, line: str) -> None:
    picture(tmp_path / "outside.png")
    root = layout(tmp_path / "data", DATA.replace("images/val", "val.txt"), train_a=BOX)
    write(root / "val.txt", f"images/train/a.png\n{line}\n")
    with pytest.raises(DataError, match=r"val.txt:2: .*(leads outside|not the path of a picture)"):
        yolo.splits(str(root))


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    assert yolo.splits(str(tmp_path)) == yolo.splits(str(tmp_path / "none.yaml")) == {}
    write(tmp_path / "args.yaml", "model: x\ntrain: true\n")
    assert yolo.splits(str(tmp_path)) == yolo.splits(str(tmp_path / "args.yaml")) == {}


def test_text_loses_the_noise_of_arithmetic_only() -> None:
    values = np.random.default_rng(0).uniform(size=1000)
    assert all(abs(float(part(value)) - value) <= 5e-13 for value in values)
    assert part(0.1 + 0.2) == "0.3" and part(1.0) == "1.0"


def use(root: Path) -> None:
    for data in yolo.splits(str(root)).values():
        assert all(np.isfinite(data[i].targets["boxes"]).all() for i in range(len(data)))
        assert all("; " in str(problem) for problem in data.problems())


@MUTANTS
def test_mutants(tmp_path: Path, count: int) -> None:
    outline = "0 0.25 0.1 0.75 0.1 0.5 0.9\n"
    layout(
        tmp_path / "a", DATA.replace("images/val", "val.txt"), train_a=BOX + outline, train_b=BOX, val_c=BOX
    )
    write(tmp_path / "a/val.txt", "./images/val/c.png\nimages/train/b.png\n")
    keypoints = DATA + "kpt_shape: [2, 3]\nflip_idx: [1, 0]\n"
    line = "1 0.5 0.5 0.5 0.5 0.5 0.5 2 0.25 0.5 1\n"
    layout(tmp_path / "b", keypoints, train_a=line + line, train_b=line, val_c=line)
    for place, share in (
        *(("a/labels/train/a.txt", 0.3), ("a/data.yaml", 0.2), ("a/val.txt", 0.1)),
        *(("b/labels/train/a.txt", 0.2), ("b/data.yaml", 0.2)),
    ):
        home = tmp_path / place[0]
        outcomes = survives(tmp_path / place, home, lambda home=home: use(home), int(count * share))  # type: ignore[misc]
        assert outcomes["used"] > outcomes.total() / 20 and not outcomes["refused without a word"]
