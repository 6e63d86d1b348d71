"""Proposals: what is written is read, each picture gets its own, and no file does more than raise a DataError."""

import contextlib
import copy
import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retinue.datasets.annotations import Annotations
from retinue.datasets.objects import ObjectPictures
from retinue.datasets.proposals import (
    FORMAT,
    Proposals,
    Regions,
    WithProposals,
    read_proposals,
    with_proposals,
    write_proposals,
)
from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import ClassMap, DataError, collate
from retinue.datasets.transforms import HorizontalFlip

HEIGHT, WIDTH = 20, 30


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def proposals(**pictures: np.ndarray) -> Proposals:
    """Of pictures of 20 x 30 pixels; `__` in a name is /, `_` a dot."""
    named = {k.replace("__", "/").replace("_", "."): rows for k, rows in pictures.items()}
    return Proposals.join("p", [Regions(k, (HEIGHT, WIDTH), rows) for k, rows in named.items()])


def pictures(root: Path, *names: str) -> ObjectPictures:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.full((HEIGHT, WIDTH, 3), 10 * i, np.uint8))
    n = len(names)
    annotations = Annotations(
        paths=np.array([name.encode() for name in names], np.bytes_),
        offsets=np.arange(n + 1, dtype=np.int64),
        boxes=np.tile(np.array([2.0, 3, 10, 12]), (n, 1)),
        labels=np.zeros(n, np.int64),
        crowd=np.zeros(n, bool),
        image_ids=np.arange(40, 40 + n),
    )
    return ObjectPictures(root, "train", annotations, ClassMap(("a", "b")))


PICTURE = st.tuples(
    st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)),
    st.lists(st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 4), max_size=4),
    st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, PICTURE, max_size=5), st.booleans())
def test_what_is_written_is_read(tmp_path: Path, given: dict[str, Any], scored: bool) -> None:
    rows = []
    for name, (size, corners, scores) in given.items():
        made = boxes(*corners)
        made = np.concatenate([np.minimum(made[:, :2], made[:, 2:]), np.maximum(made[:, :2], made[:, 2:])], 1)
        best = np.sort(np.float32(scores))[::-1][: len(made)]
        rows.append(Regions(name, size, made, best if scored else None))
    file = tmp_path / "p.safetensors"
    write_proposals(file, Proposals.join("p", rows))
    again = read_proposals(file)
    assert file.stat().st_mode & 0o777 == 0o644
    assert len(again) == len(rows) and [path.name for path in tmp_path.iterdir()] == [file.name]
    assert again.find([row.id for row in rows]).tolist() == list(range(len(rows)))
    for i, row in enumerate(rows):
        part = slice(*again.offsets[i : i + 2])
        assert np.array_equal(again.boxes[part], row.boxes) and tuple(again.sizes[i]) == row.size
        if scored:
            assert np.array_equal(again.scores[part], row.scores)  # type: ignore[index, arg-type]
    assert (again.scores is not None) == (scored and bool(rows))


def test_a_picture_is_found_by_its_id_or_the_longest_ending_of_its_path() -> None:
    made = proposals(a_png=boxes(), val__a_png=boxes(), x__val__b_png=boxes())
    names = ["a.png", "val/a.png", "/data/val/a.png", "train/a.png", "y/val/b.png", "b.png", "aa.png", ""]
    assert made.find(names).tolist() == [0, 1, 1, 0, -1, -1, -1, -1]
    assert proposals().find(["a.png"]).tolist() == [-1] and made.find([]).tolist() == []


def test_boxes_are_cut_to_the_picture_and_no_more_than_asked_for() -> None:
    rows = boxes((-5, -5, 10, 10), (3, 3, 3, 9), (40, 0, 50, 9), (1, 2, 3, 4), (25, 10, 35, 25), (0, 0, 1, 1))
    made = proposals(a=rows)
    cut = [(0, 0, 10, 10), (1, 2, 3, 4), (25, 10, 30, 20), (0, 0, 1, 1)]
    assert made.of(0, (HEIGHT, WIDTH)).tolist() == boxes(*cut).tolist()
    assert made.of(0, (HEIGHT, WIDTH), most=5).tolist() == boxes(*cut[:3]).tolist()
    with pytest.raises(DataError, match=r"p: .* 'a' were made on 30x20 pixels, the picture has 60x40"):
        made.of(0, (40, 60))
    unknown = Proposals.join("p", [Regions("a", (0, 0), rows)])
    assert len(unknown.of(0, (40, 60))) == 5
    part = made.of(0, (HEIGHT, WIDTH))
    part += 1
    assert made.boxes[0].tolist() == [-5, -5, 10, 10]


def test_samples_carry_their_proposals_and_transforms_move_them(tmp_path: Path) -> None:
    data = pictures(tmp_path, "a.png", "b.png")
    with_them = WithProposals(data, proposals(b_png=boxes(), a_png=boxes((1, 2, 5, 6), (0, 0, 30, 20))))
    assert [len(with_them[i].inputs["proposals"]) for i in (0, 1, -1)] == [2, 0, 0]
    sample = with_them[0]
    assert sample.inputs["proposals"].dtype == np.float32 and sample.targets.keys() == data.keys
    moved = HorizontalFlip(1.0)(sample, np.random.default_rng(0), None)
    assert moved.inputs["proposals"].tolist() == [[25, 2, 29, 6], [0, 0, 30, 20]]
    batch, _ = collate([moved, with_them[1]])
    assert [tuple(each.shape) for each in batch.inputs["proposals"]] == [(2, 4), (0, 4)]


def test_all_else_of_a_data_set_passes_through(tmp_path: Path) -> None:
    data = pictures(tmp_path, "a.png", "b.png", "c.png")
    made = WithProposals(data, proposals(a_png=boxes(), c_png=boxes((0, 0, 1, 1)), b_png=boxes()), most=7)
    assert len(made) == 3 and made.keys == data.keys and made.classes == data.classes
    assert made.path(2) == data.path(2) and made.annotations is data.annotations and made.skipped == []
    assert made.class_counts().tolist() == [3, 0] and made.empty == 0 and made.image_id(1) == 41
    left = made.without([(data.path(0), "broken")])
    assert len(left) == 2 and left.skipped and left[1].inputs["proposals"].tolist() == [[0, 0, 1, 1]]
    assert left.most == 7 and len(made) == 3
    assert made.with_keys({"boxes"})[2].targets.keys() == {"boxes"}
    assert made.with_classes(ClassMap(("b", "a")))[2].targets["box_labels"].tolist() == [1]
    assert made.with_keys({"boxes"})[2].inputs.keys() == made.select(np.array([2]))[0].inputs.keys()
    grey = copy.copy(made)
    grey.channels = 1
    assert grey[0].image.shape[2] == 1 and made[0].image.shape[2] == 3 and data.channels == 3
    assert len(pickle.loads(pickle.dumps(made))[2].inputs["proposals"]) == 1
    assert not hasattr(made, "with_size") and not hasattr(made, "rendered")
    with pytest.raises(AttributeError, match="nonsense"):
        _ = made.nonsense


def test_rendered_pictures_have_proposals_of_their_size_only() -> None:
    made = Proposals.join("p", [Regions("train/000000", (16, 16), boxes((1, 1, 9, 9)))])
    scenes = WithProposals(Scenes(1, 16), made)
    assert scenes.rendered and {"proposals", "intrinsics"} == scenes[0].inputs.keys()
    with pytest.raises(DataError, match="made on 16x16 pixels, the picture has 24x24"):
        scenes.with_size(24)[0]


def test_pictures_without_proposals_are_named_with_the_remedy(tmp_path: Path) -> None:
    data = pictures(tmp_path, *(f"{c}.png" for c in "abcdefgh"))
    with pytest.raises(
        DataError, match=r"p: no proposals for 7 of 8 pictures: a.png, .*, \.\.\.; .*retinue propose"
    ):
        WithProposals(data, proposals(b_png=boxes()))
    with pytest.raises(DataError, match="list has not"):
        WithProposals([1, 2], proposals())


def test_no_entry_serves_two_pictures(tmp_path: Path) -> None:
    splits = {"train": pictures(tmp_path, "train/a.png"), "val": pictures(tmp_path, "val/a.png")}
    own = with_proposals(splits, proposals(train__a_png=boxes(), val__a_png=boxes((0, 0, 2, 2))))
    assert [len(own[name][0].inputs["proposals"]) for name in splits] == [0, 1]
    with pytest.raises(
        DataError, match=r"p: the proposals of 'a.png' would be those of .*train/a.png and of .*val"
    ):
        with_proposals(splits, proposals(a_png=boxes()))
    assert len(with_proposals({"train": splits["val"], "val": splits["val"]}, proposals(a_png=boxes()))) == 2


def test_json_as_of_coco_results(tmp_path: Path) -> None:
    data, file = pictures(tmp_path, "s/a.png", "s/b.png"), tmp_path / "p.json"
    by_id = [
        {"image_id": 41, "bbox": [1, 2, 3, 4], "score": 0.1, "category_id": 9},
        {"image_id": 40, "bbox": [0, 0, 5, 5], "score": 0.5},
        {"image_id": 41, "bbox": [1.5, 2, 0, 4], "score": 0.7},
        {"image_id": 41, "bbox": [2, 2, 6, 8], "score": 0.6},
    ]
    file.write_text(json.dumps(by_id))
    made = WithProposals(data, read_proposals(file))
    assert made[0].inputs["proposals"].tolist() == [[0, 0, 5, 5]]
    assert made[1].inputs["proposals"].tolist() == [[2, 2, 8, 10], [1, 2, 4, 6]]
    assert read_proposals(file).scores.tolist() == pytest.approx([0.7, 0.6, 0.1, 0.5])  # type: ignore[union-attr]
    named = [entry | {"file_name": {40: "a.png", 41: "b.png"}[entry["image_id"]]} for entry in by_id]  # type: ignore[index]
    file.write_text(json.dumps(named))
    assert np.array_equal(
        WithProposals(data, read_proposals(file))[1].inputs["proposals"], made[1].inputs["proposals"]
    )


GOOD = {"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read as JSON"),
        ("[" * 100_000, "JSON|nested"),
        ('{"a": 1}', "is a dict; give a list"),
        ("[3]", "entry 0: 3 is no object"),
        (json.dumps([GOOD, GOOD | {"image_id": True}]), "entry 1: neither image_id nor file_name, but True"),
        (json.dumps([GOOD | {"image_id": "a\0b"}]), "entry 0: neither"),
        (json.dumps([GOOD | {"image_id": 10**400}]), "entry 0: neither"),
        (json.dumps([GOOD | {"bbox": [1, 2, 3]}]), "entry 0: bbox .* is not x, y, width, height"),
        (json.dumps([GOOD | {"bbox": [1, 2, -3, 4]}]), "entry 0: bbox"),
        (json.dumps([GOOD | {"bbox": [1, 2, 10**400, 4]}]), "entry 0: bbox"),
        (json.dumps([GOOD | {"bbox": [1, 2, float("nan"), 4]}]), "entry 0: bbox"),
        (json.dumps([GOOD | {"score": None}]), "entry 0: score None"),
        (json.dumps([GOOD | {"score": float("inf")}]), "entry 0: score inf"),
    ],
)  # fmt: skip
def test_json_that_is_none_of_proposals(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text(text)
    with pytest.raises(DataError, match=rf"p\.json.*({said})"):
        read_proposals(file)


ARRAYS: dict[str, np.ndarray] = {
    "ids": np.frombuffer(b"a\0b", np.uint8),
    "offsets": np.array([0, 1, 3]),
    "sizes": np.full((2, 2), 9, np.int32),
    "boxes": boxes((0, 0, 1, 1), (0, 0, 2, 2), (0, 0, 3, 3)),
    "scores": np.array([0.1, 0.9, 0.8], np.float32),
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ids": np.frombuffer(b"a\0a", np.uint8)}, "id 'a' is given twice"),
        ({"ids": np.frombuffer(b"a\0", np.uint8)}, "empty"),
        ({"ids": np.frombuffer(b"a", np.uint8)}, "1 ids"),
        ({"ids": np.frombuffer(b"a\0" + b"b" * 2000, np.uint8)}, "more than 1024"),
        ({"ids": np.array([0, 1])}, "not 'proposals 1'"),
        ({"offsets": np.array([0, 2])}, "2 ids"),
        ({"offsets": np.array([0, 4, 3])}, "do not divide 3 boxes"),
        ({"offsets": np.array([1, 2, 3])}, "do not divide"),
        ({"offsets": np.array([0, 2, 2])}, "do not divide"),
        ({"ids": np.frombuffer(b"a\0b\0c", np.uint8), "sizes": np.zeros((3, 2), np.int32),
          "offsets": np.array([0, 2**63 - 1, -(2**63), 3])}, "do not divide"),
        ({"sizes": np.zeros(4, np.int32)}, r"\(4,\) sizes"),
        ({"sizes": np.full((2, 2), -1, np.int32)}, "size is -1"),
        ({"boxes": np.zeros(12, np.float32)}, r"\(12,\) boxes"),
        ({"boxes": np.zeros((3, 4))}, "not 'proposals 1'"),
        ({"boxes": boxes((0, 0, 1, 1), (0, 0, 2, 2), (0, 0, np.nan, 3))}, "'b' has the box"),
        ({"boxes": boxes((5, 0, 1, 1), (0, 0, 2, 2), (0, 0, 3, 3))}, "'a' has the box"),
        ({"scores": np.zeros(2, np.float32)}, r"\(2,\) scores"),
        ({"scores": np.array([0.1, 0.8, 0.9], np.float32)}, "'b' has the score"),
        ({"scores": np.array([np.inf, 0.9, 0.8], np.float32)}, "'a' has the score inf"),
        ({"more": np.zeros(1)}, "not 'proposals 1'"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_proposals(changes: dict[str, np.ndarray], said: str, tmp_path: Path) -> None:
    file = tmp_path / "p.safetensors"
    safetensors.numpy.save_file(ARRAYS, file, {"retinue": FORMAT})
    assert len(read_proposals(file)) == 2
    safetensors.numpy.save_file(ARRAYS | changes, file, {"retinue": FORMAT})
    with pytest.raises(DataError, match=rf"p\.safetensors.*{said}"):
        read_proposals(file)


def test_other_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "p.safetensors"
    with pytest.raises(DataError, match="no such file; `retinue propose`"):
        read_proposals(file)
    for content in (b"", b"{}", pickle.dumps(ARRAYS), b"\xff" * 100):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"p\.safetensors: no whole file of proposals"):
            read_proposals(file)
    safetensors.numpy.save_file(ARRAYS, file)
    with pytest.raises(DataError, match="not 'proposals 1'"):
        read_proposals(file)


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "p.safetensors"
    whole = safetensors.numpy.save(ARRAYS, {"retinue": FORMAT})
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(changed[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    with contextlib.suppress(DataError):
        made = read_proposals(file)
        for i in range(len(made)):
            assert np.isfinite(made.of(i, tuple(made.sizes[i].tolist()))).all()  # type: ignore[arg-type]


def test_a_file_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(DataError, match=r"cannot be written .*no space left"):
        write_proposals(tmp_path / "new/p.safetensors", proposals(a=boxes()))
    assert not list((tmp_path / "new").iterdir())
