"""Pascal VOC: its layouts, its two conventions for coordinates, and xml that means harm."""

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mutations import MUTANTS, survives

from retinue.datasets import voc
from retinue.datasets.check import check
from retinue.datasets.objects import ObjectPictures
from retinue.datasets.targets import DataError
from retinue.datasets.voc_xml import corners, plus, read_xml

BCCD = Path(__file__).parents[3] / "shared/data/BCCD"
OBJECT = (
    "<object><name>{}</name>{}<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    "</object>"
)


def thing(name: str, *box: object, more: str = "") -> str:
    return OBJECT.format(name, more, *box)


def xml(*objects: str, size: tuple[int, int] = (20, 30), source: str = "", name: str = "x.png") -> str:
    height, width = size
    return (
        f"<annotation><filename>{name}</filename>{source}"
        f"<size><width>{width}</width><height>{height}</height></size>{''.join(objects)}</annotation>"
    )


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((20, 30, 3), value, np.uint8))


def devkit(root: Path, files: dict[str, str], **lists: str) -> Path:
    """A data set in the devkit's layout: xml text by stem, lists by split (stems apart by spaces)."""
    for i, (stem, text) in enumerate(files.items()):
        picture(root / f"JPEGImages/{stem}.png", i)
        (root / "Annotations").mkdir(exist_ok=True)
        (root / f"Annotations/{stem}.xml").write_text(text, encoding="utf-8")
    (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    for name, stems in lists.items():
        (root / f"ImageSets/Main/{name}.txt").write_text("\n".join(stems.split()) + "\n")
    return root


def boxes(data: ObjectPictures) -> list[list[float]]:
    return data.annotations.boxes.tolist()


DOG = thing("dog", 2, 3, 10, 12)
PASCAL = "<source><database>x</database><annotation>PASCAL VOC2007</annotation></source>"
LABELIMG = "<source><database>Unknown</database></source>"


def test_the_devkits_layout_with_its_lists(tmp_path: Path) -> None:
    hard = thing("cat", 1, 1, 30, 20, more="<difficult>1</difficult><part><name>dog</name></part>")
    files = {"a": xml(DOG, hard, source=PASCAL), "b": xml(source=PASCAL), "c": xml(DOG, source=PASCAL)}
    root = devkit(tmp_path / "VOCdevkit/VOC2007", files, train="a b", val="c", trainval="a b c")
    for source in (root, tmp_path / "VOCdevkit", tmp_path):
        found = voc.splits(str(source))
        assert {name: len(part) for name, part in found.items()} == {"train": 2, "val": 1}
    train = found["train"]
    assert train.classes.names == train.classes.ids == ("cat", "dog")
    assert [train.id(i) for i in range(2)] == ["JPEGImages/a.png", "JPEGImages/b.png"]
    sample = train[0]
    assert sample.targets["boxes"].tolist() == [[1, 2, 10, 12], [0, 0, 30, 20]]
    assert sample.targets["box_labels"].tolist() == [1, 0]
    assert sample.targets["crowd"].tolist() == [False, True]
    assert train[1].targets["boxes"].shape == (0, 4) and train.empty == 1
    assert train.remarks == train.skipped == []


def test_trainval_is_train_where_there_is_no_train(tmp_path: Path) -> None:
    root = devkit(tmp_path, {"a": xml(DOG), "b": xml(DOG)}, trainval="a", test="b")
    assert {name: len(part) for name, part in voc.splits(str(root)).items()} == {"train": 1, "test": 1}


def test_a_test_list_without_annotations_is_left_out(tmp_path: Path) -> None:
    root = devkit(tmp_path, {"a": xml(DOG)}, train="a", test="x y")
    assert list(voc.splits(str(root))) == ["train"]


def test_two_devkits_must_be_told_apart(tmp_path: Path) -> None:
    for name in ("VOC2007", "VOC2012"):
        devkit(tmp_path / name, {"a": xml(DOG)}, train="a")
    with pytest.raises(DataError, match=r"VOC2007.*VOC2012.*name one"):
        voc.splits(str(tmp_path))


@pytest.mark.parametrize("beside", [True, False])
def test_without_lists_a_part_is_held_out(tmp_path: Path, beside: bool) -> None:
    for i in range(10):
        picture(tmp_path / ("" if beside else "images") / f"{i}.png", i)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / ("" if beside else "annotations") / f"{i}.xml").write_text(xml(DOG))
    picture(tmp_path / ("" if beside else "images") / "bare.png", 99)
    found = voc.splits(str(tmp_path))
    assert {name: len(part) for name, part in found.items()} == {"train": 8, "val": 2}
    assert "no splits" in found["val"].remarks[-1]
    assert "1 pictures without an xml file" in found["train"].remarks[0]
    again = voc.splits(str(tmp_path))
    assert [again["val"].id(i) for i in range(2)] == [found["val"].id(i) for i in range(2)]


def test_split_folders_with_pictures_beside_their_xml(tmp_path: Path) -> None:
    for i, split in enumerate(("train", "valid")):
        picture(tmp_path / split / f"{i}.png", i)
        (tmp_path / split / f"{i}.xml").write_text(xml(thing("ab"[i], 2, 3, 10, 12)))
    found = voc.splits(str(tmp_path))
    assert [found[name].id(0) for name in ("train", "val")] == ["train/0.png", "valid/1.png"]
    assert found["val"].classes.names == ("a", "b") and found["val"][0].targets["box_labels"] == [1]
    assert "['b'] do not occur in train" in found["val"].remarks[-1]


@pytest.mark.parametrize(
    ("files", "x1", "why"),
    [
        ([xml(DOG)], 1, "counted from 1"),
        ([xml(DOG), xml(thing("cat", 0, 3, 4, 5))], 2, "has a cat at 0, 3, 4, 5"),
        ([xml(DOG), xml(thing("cat", 4, 0.5, 4, 5))], 2, "from 0"),
        ([xml(DOG, source=LABELIMG), xml(source=LABELIMG)], 2, "LabelImg"),
        ([xml(DOG, source=LABELIMG), xml(DOG)], 1, "counted from 1"),
        ([xml(DOG, source=PASCAL), xml(thing("cat", 0, 3, 4, 5), source=PASCAL)], 1, None),
        ([xml(DOG), xml(thing("cat", "-3", 3, 4, 5))], 1, "counted from 1"),
    ],
)
def test_the_first_pixel_is_decided_for_the_whole_set(
    tmp_path: Path, files: list[str], x1: int, why: str | None
) -> None:
    named = {f"f{i}": text for i, text in enumerate(files)}
    found = voc.splits(str(devkit(tmp_path, named, train="f0", val=" ".join(named))))
    for part in found.values():
        assert boxes(part)[0] == [x1, x1 + 1, 10, 12]
        about = [remark for remark in part.remarks if "coordinates" in remark]
        assert [why in remark for remark in about] == [True] if why else not about


def test_a_single_pixel_is_a_box_where_counting_starts_at_one(tmp_path: Path) -> None:
    one = thing("dog", 5, 6, 5, 6)
    found = voc.splits(str(devkit(tmp_path, {"a": xml(one)}, train="a")))
    assert boxes(found["train"]) == [[4, 5, 5, 6]]
    found = voc.splits(str(devkit(tmp_path, {"a": xml(one, source=LABELIMG)}, train="a")))
    assert boxes(found["train"]) == [] and len(list(found["train"].problems())) == 1


def test_a_coordinate_is_read_as_it_was_written() -> None:
    values = np.random.default_rng(0).uniform(0, 5000, 1000).tolist()
    for value in (*values, 0.1, 0.3, 1e-7, 0.0, 17.0, 4999.9999):
        for first in (0, 1):
            assert corners((plus(value, first), "1", "2", "3"), first)[0] == value
    assert plus(4.0, 1) == "5" and plus(0.1, 1) == "1.1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not readable as XML (no element found"),
        ("<annotation>", "not readable as XML"),
        ("<annotation></object>", "mismatched tag"),
        ("<html></html>", "root element is <html>"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "not readable as XML"),
        ("<annotation>\x01</annotation>", "not readable as XML"),
        ("<!DOCTYPE annotation><annotation/>", "1: has a DOCTYPE"),
        ("<annotation>&undefined;</annotation>", "not readable as XML"),
        ("<annotation>" * 40 + "</annotation>" * 40, "nested deeper"),
        (xml(DOG.replace("dog", " ")), "the name of object 1 is ''"),
        (xml(DOG, "<object><name>cat</name></object>"), "object 2 (cat) has no <bndbox>"),
        (xml(DOG.replace("<xmin>2</xmin>", "")), "the coordinate ''"),
        (xml(DOG.replace(">12<", ">twelve<")), "the coordinate 'twelve'"),
        (
            xml(thing("dog", 1, 2, 3, 4, more="<difficult>maybe</difficult>")),
            "difficult of object 1 is 'maybe'",
        ),
        (xml(DOG, size=(20, -1)), "width is '-1'"),
        (xml(DOG).replace(">30<", ">1e99<"), "width is '1e99'"),
        (xml(DOG).replace(">30<", ">nan<"), "width is 'nan'"),
    ],
)
def test_a_bad_file_is_skipped_by_name(tmp_path: Path, text: str, message: str) -> None:
    root = devkit(tmp_path, {"good": xml(DOG), "bad": text}, train="good bad")
    with pytest.raises(DataError) as error:
        read_xml(root / "Annotations/bad.xml")
    assert message in str(error.value)
    (part,) = voc.splits(str(root)).values()
    assert len(part) == 1
    ((file, reason),) = part.skipped
    assert file == root / "Annotations/bad.xml" and message in f"{file}:{reason}"
    with pytest.raises(DataError, match="nothing of split 'train' can be read"):
        voc.splits(str(devkit(tmp_path / "only", {"bad": text}, train="bad")))


def test_odd_but_readable_files(tmp_path: Path) -> None:
    text = '<?xml version="1.0" encoding="latin-1"?>' + xml(
        thing("caf\xe9 &amp; bar", 2, 3, 10, 12), size=(0, 0)
    )
    root = devkit(tmp_path, {"a": ""}, train="a")
    (root / "Annotations/a.xml").write_bytes(text.encode("latin-1"))
    (part,) = voc.splits(str(root)).values()
    assert part.classes.names == ("caf\xe9 & bar",)
    (root / "Annotations/a.xml").write_bytes(xml(DOG).encode("utf-16"))
    assert len(voc.splits(str(root))["train"].annotations.labels) == 1


BOMB = '<!DOCTYPE a [<!ENTITY a0 "lol">' + "".join(
    f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10)
)
ATTACKS = {
    "entity bomb": BOMB + "]><annotation><filename>&a9;</filename></annotation>",
    "quadratic": '<!DOCTYPE a [<!ENTITY a "'
    + "x" * 100_000
    + '">]><annotation>'
    + "&a;" * 100_000
    + "</annotation>",
    "external entity": '<!DOCTYPE a [<!ENTITY a SYSTEM "SECRET">]><annotation><filename>&a;</filename></annotation>',
    "external dtd": '<!DOCTYPE a SYSTEM "SECRET"><annotation/>',
    "many elements": "<annotation>" + "<a/>" * 900_000 + "</annotation>",
    "one long name": xml(thing("x" * 3_000_000, 1, 2, 3, 4)),
    "one long number": xml(thing("dog", 1, 2, 3, "9" * 3_000_000)),
    "too large": xml(DOG) + " " * 5_000_000,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_xml_is_refused_at_once(tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    file = tmp_path / "a.xml"
    file.write_text(ATTACKS[name].replace("SECRET", secret.as_uri()))
    start = time.process_time()
    with pytest.raises(DataError) as error:
        read_xml(file)
    assert "a secret" not in str(error.value) and len(str(error.value)) < 500
    assert time.process_time() - start < 5  # what an attack asks for is minutes


def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    picture(tmp_path / "outside.png")
    (tmp_path / "outside.xml").write_text(xml(DOG))
    inside = {"a": xml(DOG), "b": xml(DOG, name="../../outside.png")}
    root = devkit(tmp_path / "data", inside, train="a ../../outside /etc/passwd b")
    (root / "JPEGImages/b.png").unlink()
    (part,) = voc.splits(str(root)).values()
    assert [part.id(i) for i in range(len(part))] == ["JPEGImages/a.png"]
    assert [reason.split(";")[0] for _, reason in part.skipped] == [
        "there is no such file", "there is no such file", "its picture b is not there",
    ]  # fmt: skip


def test_a_picture_is_found_by_the_name_that_the_file_states(tmp_path: Path) -> None:
    root = devkit(tmp_path, {"a": xml(DOG), "b": xml(DOG, name=r"C:\photos\A picture.png")}, train="a b")
    (root / "JPEGImages/b.png").rename(root / "JPEGImages/A picture.png")
    (part,) = voc.splits(str(root)).values()
    assert [part.id(i) for i in range(2)] == ["JPEGImages/a.png", "JPEGImages/A picture.png"]
    (root / "Annotations/b.xml").write_text(xml(DOG, name="a.png"))
    (part,) = voc.splits(str(root)).values()
    assert len(part) == 1 and "another xml file" in part.skipped[0][1]


def use(root: Path) -> None:
    for part in voc.splits(str(root)).values():
        assert all(np.isfinite(part[i].targets["boxes"]).all() for i in range(len(part)))
        assert all("; " in str(problem) for problem in part.problems())
        assert all(reason for _, reason in part.skipped)


@MUTANTS
def test_mutants(tmp_path: Path, count: int) -> None:
    files = {
        "a": xml(DOG, thing("cat", 4.5, 1, 8, 9, more="<difficult>1</difficult>"), source=PASCAL),
        "b": '<?xml version="1.0" encoding="utf-8"?>\n' + xml(DOG, name="b.png"),
        "c": xml(DOG, source=PASCAL),
    }
    devkit(tmp_path, files, train="a c", val="b c")
    for place, part in (
        ("Annotations/a.xml", 0.4),
        ("Annotations/b.xml", 0.4),
        ("ImageSets/Main/train.txt", 0.2),
    ):
        outcomes = survives(tmp_path / place, tmp_path, lambda: use(tmp_path), int(count * part))
        assert outcomes["used"] > outcomes.total() / 20 and not outcomes["refused without a word"]


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    assert voc.splits(str(tmp_path)) == voc.splits(str(tmp_path / "none")) == {}
    picture(tmp_path / "train/cat/a.png")
    (tmp_path / "notes.xml").write_text("<notes/>")
    assert voc.splits(str(tmp_path)) == {}


@pytest.mark.skipif(not BCCD.exists(), reason="needs shared/data/BCCD")
def test_bccd() -> None:
    found = voc.splits(str(BCCD))
    assert {name: len(part) for name, part in found.items()} == {"train": 205, "val": 87, "test": 72}
    assert [part.class_counts().sum() for part in found.values()] == [2804, 1137, 945]
    assert found["train"].classes.names == ("Platelets", "RBC", "WBC")
    odd = [p.file for p in check(found).errors]
    assert [Path(file).stem for file in odd] == ["BloodImage_00343", "BloodImage_00338"]
