"""`semantic` of pictures with objects: painted from their outlines, by hand, by loop and for every orientation."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask

from retinue.datasets import coco
from retinue.datasets.annotations import Annotations
from retinue.datasets.formats import numbered, open_splits
from retinue.datasets.objects import ObjectPictures
from retinue.datasets.pictures import orient
from retinue.datasets.segments import Segments
from retinue.datasets.targets import IGNORE, ClassMap, DataError

CLASSES = ClassMap(("ant", "bee"), (3, 7))
MINI = Path(__file__).parents[3] / "shared/data/coco_mini"


def code(mask: np.ndarray) -> dict:
    value = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": value["counts"].decode()}


def block(size: tuple[int, int], y1: int, y2: int, x1: int, x2: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def pictures(
    root: Path,
    outlines: list[np.ndarray | None],
    labels: list[int],
    crowd: list[bool] | None = None,
    size: tuple[int, int] = (20, 30),
    boxes: list[list[float]] | None = None,
    classes: ClassMap = CLASSES,
    orientation: int = 1,
) -> ObjectPictures:
    """One picture of (height, width) with objects; their boxes default to the whole picture."""
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", size[::-1]).save(root / "a.jpg", exif=exif)
    whole = [[0.0, 0.0, size[1], size[0]]] * len(outlines)
    value = Annotations(
        paths=np.array([b"a.jpg"]),
        offsets=np.array([0, len(outlines)]),
        boxes=np.array(boxes or whole, np.float64).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        crowd=None if crowd is None else np.array(crowd),
        segments=Segments.of(None if one is None else code(one) for one in outlines),
        sizes=np.array([size], np.int32),
    )
    return ObjectPictures(root, "train", value, classes)


def test_the_smaller_lie_on_top_and_crowds_below(tmp_path: Path) -> None:
    size = (20, 30)
    small, large = block(size, 5, 9, 5, 9), block(size, 2, 15, 2, 15)
    crowd, bare = block(size, 0, 20, 12, 30), [20.2, 1.0, 24.5, 30.0]
    boxes = [[5, 5, 9, 9], [2, 2, 15, 15], [12, 0, 30, 20], bare]
    data = pictures(
        tmp_path, [small, large, crowd, None], [0, 1, 0, 1], [False, False, True, False], size, boxes=boxes
    )
    assert data.keys == {"boxes", "box_labels", "crowd", "masks", "semantic"}
    assert data.semantic_classes == ClassMap(("background", "ant", "bee"), (0, 3, 7))
    wanted = np.zeros(size, np.int64)
    wanted[1:20, 20:25] = IGNORE
    wanted[crowd] = IGNORE
    wanted[large], wanted[small] = 2, 1
    semantic = data[0].targets["semantic"]
    assert semantic.dtype == np.int64 and (semantic == wanted).all()
    alone = data.with_keys({"semantic"})[0].targets
    assert alone.keys() == {"semantic"} and (alone["semantic"] == wanted).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5).flatmap(lambda n: st.tuples(arrays(bool, (n, 6, 7)), arrays(bool, n))),
    st.randoms(use_true_random=False),
)
def test_it_is_what_a_loop_over_the_masks_paints(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[np.ndarray, np.ndarray], luck: object
) -> None:
    masks, crowd = drawn
    labels = [i % 2 for i in range(len(masks))]
    data = pictures(tmp_path_factory.mktemp("d"), list(masks), labels, crowd.tolist(), (6, 7))
    wanted = np.zeros((6, 7), int)
    order = sorted(range(len(masks)), key=lambda i: (not crowd[i], -masks[i].sum(), i))
    for i in order:
        wanted[masks[i]] = IGNORE if crowd[i] else labels[i] + 1
    assert (data[0].targets["semantic"] == wanted).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_with_the_picture(tmp_path: Path, orientation: int) -> None:
    mask = block((20, 30), 3, 9, 4, 20)
    data = pictures(tmp_path, [mask], [1], orientation=orientation)
    sample = data[0]
    turned = orientation >= 5  # a flip of the same size cannot be told
    wanted = 2 * (orient(mask, orientation) if turned else mask)
    assert (sample.targets["semantic"] == wanted).all()
    assert (sample.targets["masks"][0] == (wanted > 0)).all()


def test_pictures_without_objects_are_background(tmp_path: Path) -> None:
    data = pictures(tmp_path, [], [])
    assert not data[0].targets["semantic"].any() and data[0].targets["semantic"].shape == (20, 30)


def test_masks_are_decoded_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pictures(tmp_path, [block((20, 30), 1, 5, 1, 5)], [0])

    def no(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Segments, "_runs", no)
    assert data.with_keys({"boxes", "box_labels"})[0].targets.keys() == {"boxes", "box_labels"}
    for key in ("masks", "semantic"):
        with pytest.raises(AssertionError, match="decoded"):
            data.with_keys({key})[0]


@pytest.mark.parametrize(
    ("names", "ids", "wanted"),
    [
        (("ant", "bee"), (0, 1), ClassMap(("background", "ant", "bee"), ("background", 0, 1))),
        (
            ("ant", "bee"),
            ("ant", "bee"),
            ClassMap(("background", "ant", "bee"), ("background", "ant", "bee")),
        ),
        (("ant", "background"), (1, 2), ClassMap(("ant", "background"), (1, 2))),
    ],
)
def test_the_background_has_an_id_of_its_own(
    tmp_path: Path, names: tuple[str, ...], ids: tuple[int | str, ...], wanted: ClassMap
) -> None:
    data = pictures(tmp_path, [block((20, 30), 0, 5, 0, 5)], [0], classes=ClassMap(names, ids))
    assert data.semantic_classes == wanted
    semantic = data[0].targets["semantic"]
    assert (semantic[:5, :5] == wanted.names.index("ant")).all()
    assert semantic[19, 29] == wanted.names.index("background")


def test_a_models_classes(tmp_path: Path) -> None:
    size = (20, 30)
    data = pictures(tmp_path, [block(size, 0, 5, 0, 5), block(size, 9, 12, 9, 12)], [1, 1])
    model = ClassMap(("bee", "wasp", "background"))
    other = data.with_semantic_classes(model)
    semantic = other[0].targets["semantic"]
    assert other.semantic_classes == model and other.classes == CLASSES
    assert semantic[0, 0] == 0 and semantic[19, 0] == 2
    assert (
        other.select(np.array([0])).with_classes(ClassMap(("bee", "ant")))[0].targets["semantic"] == semantic
    ).all()
    with pytest.raises(
        DataError, match=r"the classes \['background', 'bee'\] of split 'train' are not among \['ant'\]"
    ):
        data.with_semantic_classes(ClassMap(("ant",)))


def test_two_models_may_number_objects_and_pixels_each_in_its_own_way(tmp_path: Path) -> None:
    data = pictures(tmp_path, [block((20, 30), 0, 5, 0, 5)], [1])
    objects, pixels = ClassMap(("bee", "ant")), ClassMap(("ant", "background", "bee"))
    one = numbered(numbered(data, objects), pixels, semantic=True)
    other = numbered(numbered(data, pixels, semantic=True), objects)
    for part in (one, other):
        targets = part[0].targets
        assert targets["box_labels"].tolist() == [0] and targets["semantic"][[0, 19], 0].tolist() == [2, 1]


def test_too_many_classes_or_no_outlines_give_none(tmp_path: Path) -> None:
    many = ClassMap(tuple(f"class {i}" for i in range(255)))
    mask = block((20, 30), 0, 5, 0, 5)
    assert "semantic" not in pictures(tmp_path, [mask], [0], classes=many).keys
    fewer = ClassMap(many.names[:254])
    assert pictures(tmp_path, [mask], [253], classes=fewer)[0].targets["semantic"].max() == 254
    boxes = Annotations(np.array([b"a.jpg"]), np.array([0, 1]), np.array([[1.0, 1, 5, 5]]), np.array([0]))
    assert ObjectPictures(tmp_path, "train", boxes, CLASSES).keys == {"boxes", "box_labels"}


@pytest.mark.skipif(not MINI.is_dir(), reason="shared/data/coco_mini is absent")
def test_coco_mini() -> None:
    data = open_splits(str(MINI), keys=frozenset({"semantic"}))["val"]
    assert isinstance(data, coco.CocoPictures) and len(data.semantic_classes) == 81
    light = data.with_keys({"masks", "semantic", "box_labels", "crowd"})
    for i in range(0, len(data), 8):
        targets = light[i].targets
        masks, crowd = targets["masks"], targets["crowd"]
        wanted = np.zeros(targets["semantic"].shape, int)
        for row in sorted(range(len(masks)), key=lambda row: (not crowd[row], -masks[row].sum())):
            wanted[masks[row]] = IGNORE if crowd[row] else targets["box_labels"][row] + 1
        assert (targets["semantic"] == wanted).all()
