"""Instance-mask folders: every number is an object, tight boxes, every 4th picture held out, and broken masks."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mutations import MUTANTS, survives
from PIL import Image

from retinue.datasets.formats import open_splits
from retinue.datasets.mask_folder import MaskFolder, splits
from retinue.datasets.pictures import PictureError, read_indices
from retinue.datasets.scenes import tight_boxes
from retinue.datasets.targets import DataError

PENN_FUDAN = Path(__file__).parents[3] / "shared/data/PennFudanPed"


def pair(
    root: Path, name: str, mask: np.ndarray, folders: tuple[str, str] = ("PNGImages", "PedMasks")
) -> None:
    """A picture and its mask."""
    for folder in folders:
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(name)).integers(0, 256, (*mask.shape, 3)).astype(np.uint8)
    cv2.imwrite(str(root / folders[0] / f"{name}.png"), noise)
    cv2.imwrite(str(root / folders[1] / f"{name}_mask.png"), mask)


def two_objects() -> np.ndarray:
    mask = np.zeros((20, 30), np.uint8)
    mask[3:12, 2:10] = 1
    mask[0, 29] = mask[19, 0] = 2
    return mask


def test_every_number_is_an_object(tmp_path: Path) -> None:
    mask = two_objects()
    mask[5:7, 4:6] = 0
    pair(tmp_path, "a", mask)
    pair(tmp_path, "b", np.zeros((20, 30), np.uint8))
    data = open_splits(str(tmp_path))["train"]
    assert isinstance(data, MaskFolder)
    assert data.classes.names == ("Ped",) and data.keys == {
        "boxes",
        "box_labels",
        "area",
        "masks",
        "semantic",
    }
    assert len(data) == 2 and data.empty == 1 and list(data.problems()) == []
    targets = data[0].targets
    assert targets["boxes"].tolist() == [[2, 3, 10, 12], [0, 0, 30, 20]]
    assert targets["area"].tolist() == [68, 2] and targets["box_labels"].tolist() == [0, 0]
    assert (targets["masks"] == [mask == 1, mask == 2]).all()
    assert data[1].targets["masks"].shape == (0, 20, 30)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda s: arrays(np.uint8, s, elements=st.integers(0, 4))
    )
)
def test_masks_come_back_with_tight_boxes(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray) -> None:
    root = tmp_path_factory.mktemp("masks")
    pair(root, "a", mask)
    targets = splits(str(root))["train"][0].targets
    values = [value for value in np.unique(mask) if value]
    assert (targets["masks"] == np.array([mask == value for value in values]).reshape(-1, *mask.shape)).all()
    assert (targets["boxes"] == tight_boxes(targets["masks"])).all()


def test_every_fourth_is_held_out(tmp_path: Path) -> None:
    for i in range(9):
        pair(tmp_path, f"{i}", two_objects())
    found = splits(str(tmp_path))
    ids = {name: [part.id(i) for i in range(len(part))] for name, part in found.items()}
    assert ids["val"] == ["PNGImages/3.png", "PNGImages/7.png"]
    assert ids["train"] == [f"PNGImages/{i}.png" for i in (0, 1, 2, 4, 5, 6, 8)]
    assert all("every 4th picture" in part.remarks[0] and part.split == name for name, part in found.items())


def test_split_folders_deeper_folders_and_16_bits(tmp_path: Path) -> None:
    deep = two_objects().astype(np.uint16)
    deep[15:17, 20:22] = 300
    pair(tmp_path / "train", "x/a", deep, ("images", "masks"))
    pair(tmp_path / "valid", "b", two_objects(), ("images", "masks"))
    found = splits(str(tmp_path))
    assert {name: [part.id(i) for i in range(len(part))] for name, part in found.items()} == {
        "train": ["train/images/x/a.png"],
        "val": ["valid/images/b.png"],
    }
    assert found["train"].classes.names == ("object",)
    assert found["train"][0].targets["area"].tolist() == [72, 2, 4]
    (problem,) = found["train"].problems()
    assert problem.kind == "mask values" and "[1, 2, 300]" in problem.value


def test_semantic_masks_are_not_ours(tmp_path: Path) -> None:
    for name in "ab":
        pair(tmp_path, name, two_objects(), ("images", "masks"))
        (tmp_path / f"masks/{name}_mask.png").rename(tmp_path / f"masks/{name}.png")
    assert splits(str(tmp_path)) == splits(str(tmp_path / "images")) == splits("scenes") == {}


def test_what_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    for name in ("a", "b", "colour", "cut", "size", "many", "alone"):
        pair(tmp_path, name, two_objects())
    masks = tmp_path / "PedMasks"
    (masks / "b_mask.png").unlink()
    (tmp_path / "PNGImages/alone.png").unlink()
    Image.new("RGB", (30, 20)).save(masks / "colour_mask.png")
    (masks / "cut_mask.png").write_bytes((masks / "a_mask.png").read_bytes()[:-20])
    cv2.imwrite(str(masks / "size_mask.png"), np.ones((20, 31), np.uint8))
    cv2.imwrite(str(masks / "many_mask.png"), np.arange(1200, dtype=np.uint16).reshape(40, 30))
    data = splits(str(tmp_path))["train"]
    assert [data.id(i) for i in range(len(data))] == ["PNGImages/a.png"]
    reasons = {path.stem: reason for path, reason in data.skipped}
    wanted = {
        "b": "b_mask.png: there is no such file",
        "colour": "is a PNG of mode RGB",
        "cut": "truncated",
        "size": "states 31x20, the file has 30x20",
        "many": "has 1199 values",
    }
    assert reasons.keys() == wanted.keys()
    assert all(text in reasons[name] for name, text in wanted.items())
    assert {problem.kind for problem in data.problems()} == {"mask without picture", "size mismatch"}
    for name in ("a", "size"):
        (masks / f"{name}_mask.png").write_bytes(b"")
    with pytest.raises(DataError, match="no picture has a mask that can be read"):
        splits(str(tmp_path))


def test_two_folders_of_masks_are_a_choice(tmp_path: Path) -> None:
    pair(tmp_path, "a", two_objects())
    pair(tmp_path, "a", two_objects(), ("PNGImages", "CarMasks"))
    with pytest.raises(DataError, match=r"\['CarMasks', 'PedMasks'\]"):
        splits(str(tmp_path))


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_indices_are_read_in_every_mode(tmp_path: Path, mode: str) -> None:
    most = {"L": 256, "P": 256, "1": 2, "I;16": 65536}[mode]
    values = np.random.default_rng(0).integers(0, most, (7, 9))
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16))
    else:
        image = (
            Image.fromarray(values.astype(np.uint8)) if mode != "1" else Image.fromarray(values.astype(bool))
        )
    if mode == "P":
        image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(tmp_path / "m.png")
    read = read_indices(tmp_path / "m.png")
    assert (read == values).all() and read.dtype == (np.uint16 if mode == "I;16" else np.uint8)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_values_of_few_bits_are_not_spread(tmp_path: Path, bits: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (5, 8)).astype(np.uint8)
    rows = b"".join(
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, -bits:]).tobytes() for row in values
    )
    (tmp_path / "m.png").write_bytes(png(8, 5, bits, rows))
    assert (read_indices(tmp_path / "m.png") == values).all()


def png(width: int, height: int, bits: int, rows: bytes) -> bytes:
    """A grey PNG of few bits, which no library at hand writes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_lossy_masks_are_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "m.jpg")
    with pytest.raises(PictureError, match="is a JPEG of mode L, not one number a pixel"):
        read_indices(tmp_path / "m.jpg")


@MUTANTS
def test_mutants(tmp_path: Path, count: int) -> None:
    for name in "ab":
        pair(tmp_path, name, two_objects())

    def use() -> None:
        for part in splits(str(tmp_path)).values():
            list(part.problems())
            for i in range(len(part)):
                targets = part[i].targets
                assert (
                    targets["masks"].any((1, 2)).all()
                    and (targets["boxes"] == tight_boxes(targets["masks"])).all()
                )

    outcomes = survives(tmp_path / "PedMasks/a_mask.png", tmp_path, use, count)
    assert outcomes["used"] == count  # the picture is skipped, the other one stays


@pytest.mark.skipif(not PENN_FUDAN.exists(), reason=f"{PENN_FUDAN} is not here")
def test_penn_fudan() -> None:
    found = open_splits(str(PENN_FUDAN))
    assert {name: (len(part), int(part.class_counts().sum())) for name, part in found.items()} == {
        "train": (64, 160),
        "val": (21, 53),
    }
    data = found["val"]
    stem = Path(data.id(0)).stem
    mask = np.asarray(Image.open(PENN_FUDAN / f"PedMasks/{stem}_mask.png"))
    ys, xs = np.nonzero(mask == 1)
    sample = data[0]
    assert sample.targets["boxes"][0].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert (sample.targets["masks"][0] == (mask == 1)).all()
