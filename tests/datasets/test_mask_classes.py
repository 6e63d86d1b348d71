"""What masks' values mean: every way of writing it down reads back exactly, and errors name line and remedy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import MUTANTS, survives

from retinue.datasets.mask_classes import FILES, Entries, MaskClasses, read_entries, shown, stated
from retinue.datasets.targets import IGNORE, ClassMap, DataError

NAMES = st.text(st.characters(codec="utf-8", categories=["L"]), min_size=1, max_size=8)
NAME_LISTS = st.lists(NAMES, min_size=1, max_size=20, unique_by=str.lower).map(
    lambda names: [name for name in names if name.lower() not in ("ignore", "void")] or ["road"]
)
COLOURS = st.tuples(*[st.integers(0, 255)] * 3)


def packed(colour: tuple[int, int, int]) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


# Files


@settings(max_examples=60, deadline=None)
@given(NAME_LISTS, st.data(), st.sampled_from(["r g b name", "name,r,g,b", "cvat"]))
def test_colour_tables_read_back_and_decode_every_mask(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject, kind: str
) -> None:
    colours = data.draw(st.lists(COLOURS, min_size=len(names), max_size=len(names), unique=True))
    write = {
        "r g b name": lambda n, r, g, b: f"{r} {g} {b}\t{n}",
        "name,r,g,b": lambda n, r, g, b: f"{n}, {r}, {g}, {b}",
        "cvat": lambda n, r, g, b: f"{n}:{r},{g},{b}::",
    }[kind]
    head = {"name,r,g,b": ["name,r,g,b"], "cvat": ["# label:color_rgb:parts:actions"]}.get(kind, [])
    file = tmp_path_factory.mktemp("t") / "table.txt"
    file.write_text("\n".join([*head, *(write(n, *c) for n, c in zip(names, colours))]), "utf-8")
    coding = MaskClasses.of(read_entries(file))
    assert coding.by_colour and coding.classes == ClassMap(tuple(names), tuple(names))
    index = np.array(data.draw(st.lists(st.integers(0, len(names) - 1), min_size=1, max_size=30)))
    codes = np.array([packed(colours[i]) for i in index.tolist()], np.uint32)
    assert coding.known(codes).all() and (coding.index(codes) == index).all()
    strange = data.draw(COLOURS.filter(lambda colour: colour not in colours))
    assert not coding.known(np.array([packed(strange)], np.uint32)).any()
    assert shown(packed(strange), True) == str(strange)


@settings(max_examples=60, deadline=None)
@given(NAME_LISTS, st.data())
def test_values_read_back(names: list[str], data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 65535), min_size=len(names), max_size=len(names), unique=True))
    said = stated(Path("."), ",".join(f"{v}:{n}" for v, n in zip(values, names)))
    assert said is not None
    coding = MaskClasses.of(said)
    assert coding.classes == ClassMap(tuple(names), tuple(values))
    assert coding.index(np.array(values, np.uint16)).tolist() == list(range(len(names)))
    every = np.arange(65536)
    assert set(np.flatnonzero(coding.known(every))) == {*values, IGNORE}


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("road\nsky\n", [(0, "road"), (1, "sky")]),
        ("7 road\n3 traffic light\n", [(7, "road"), (3, "traffic light")]),
        ("7: road\n3:sky", [(7, "road"), (3, "sky")]),
        ("1 wall, edge\n2 a;b", [(1, "wall, edge"), (2, "a;b")]),
        ("64 128 64\tAnimal\n\n0 0 0\t\tVoid\n", [(0x408040, "Animal"), (0, "Void")]),
        ("\ufeffname,r,g,b\r\nSky, 128,128,128\r\n", [(0x808080, "Sky")]),
        ("Class Name;R;G;B\nSky;1;2;3", [(0x010203, "Sky")]),
    ],
)
def test_files_as_people_write_them(tmp_path: Path, text: str, codes: list[tuple[int, str]]) -> None:
    (tmp_path / "c.txt").write_bytes(text.encode())
    entries = read_entries(tmp_path / "c.txt")
    assert entries.codes == codes and entries.by_colour == (codes[0][0] > 99 and len(codes) < 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"names no classes"),
        ("road\n\nsky", r":2: an empty line, where lines are counted"),
        (
            "road\n3 sky",
            r":2: '3 sky' gives values and names, but .*:1 gives names alone; write all lines alike",
        ),
        ("0 0 300 road", r":1: '0 0 300 road' has 300 in a colour"),
        ("70000 road", r":1: '70000 road' has the value 70000; masks hold 0 to 65535"),
        ("road\n17", r":2: '17' is no class"),
        ("road\n\x00", r":2: '\\x00' is no class"),
        ("\xff", r"cannot be read as UTF-8"),
    ],
)
def test_lines_that_mean_nothing(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        read_entries(tmp_path / "c.txt")


@MUTANTS
def test_mutants(tmp_path: Path, count: int) -> None:
    for name, text in (("a.txt", "road\nsky\ncar\n"), ("b.csv", "name,r,g,b\nroad,1,2,3\nsky,4,5,6\n")):
        (tmp_path / name).write_text(text)

        def use(file: Path = tmp_path / name) -> None:
            coding = MaskClasses.of(read_entries(file))
            assert 0 < len(coding.classes) <= 255 and (np.diff(coding.codes) > 0).all()

        survives(tmp_path / name, tmp_path, use, count)


# Where it is said


def test_the_option_goes_before_the_folders_file(tmp_path: Path) -> None:
    assert stated(tmp_path, None) is None
    (tmp_path / "label_colors.txt").write_text("1 2 3 sky")
    assert stated(tmp_path, None) == Entries([(0x010203, "sky")], True, str(tmp_path / "label_colors.txt"))
    (tmp_path / "classes.txt").write_text("road")
    assert FILES.index("classes.txt") < FILES.index("label_colors.txt")
    assert stated(tmp_path, None) == Entries([(0, "road")], False, str(tmp_path / "classes.txt"))
    given_entries = stated(tmp_path, "0:background, 255:object,11:ignore")
    assert given_entries is not None
    assert given_entries.codes == [(0, "background"), (255, "object"), (11, "ignore")]
    assert stated(tmp_path, str(tmp_path / "label_colors.txt")) == Entries(
        [(0x010203, "sky")], True, str(tmp_path / "label_colors.txt")
    )


@pytest.mark.parametrize("text", ["", "0", "road", "0:road,sky", "0:road,,", "0=road", "none.txt", "-1:road"])
def test_an_option_that_is_neither_a_file_nor_a_list(text: str) -> None:
    with pytest.raises(DataError, match="neither a file nor a list of VALUE:NAME; write values=0:background"):
        stated(Path("."), text)


# Classes


def of(*codes: tuple[int, str], by_colour: bool = False) -> MaskClasses:
    return MaskClasses.of(Entries(list(codes), by_colour, "here"))


def test_ignore_and_void_are_no_classes_and_255_is_ignored() -> None:
    coding = of((0, "Void"), (3, "road"), (9, "IGNORE"), (5, "sky"))
    assert coding.classes == ClassMap(("road", "sky"), (3, 5))
    assert coding.index(np.array([0, 3, 9, 5, 255])).tolist() == [IGNORE, 0, IGNORE, 1, IGNORE]
    assert of((255, "object"), (0, "background")).index(np.array([255, 0])).tolist() == [0, 1]
    assert not of((0, "sky"), by_colour=True).known(np.array([IGNORE])).any()


def test_several_values_of_one_class() -> None:
    coding = of((4, "car"), (1, "road"), (5, "car"))
    assert coding.classes == ClassMap(("car", "road"), (4, 1))
    assert coding.index(np.array([5, 4, 1])).tolist() == [0, 0, 1]


def test_what_cannot_be() -> None:
    with pytest.raises(DataError, match="here: 3 is 'road' and 'sky'; remove one"):
        of((3, "road"), (3, "sky"))
    with pytest.raises(DataError, match=r"here: \(0, 0, 3\) is 'road' and 'sky'"):
        of((3, "road"), (3, "sky"), by_colour=True)
    with pytest.raises(DataError, match="has 0 classes"):
        of((3, "void"))
    with pytest.raises(DataError, match="has 256 classes; name at least one, and at most 255"):
        of(*((i, f"c{i}") for i in range(256)))
    assert len(of(*((i, f"c{i}") for i in range(255))).classes) == 255


def test_numbers_are_called_as_they_are_written() -> None:
    assert MaskClasses.of_numbers([7, 0, 255, 0]).classes == ClassMap(("0", "7"), (0, 7))


def test_an_unknown_colour_is_told_with_the_nearest() -> None:
    coding = of((0x800000, "car"), (0, "void"), by_colour=True)
    assert coding.unknown(0x7F0102, 1234) == "(127, 1, 2) (1,234 pixels; the nearest is (128, 0, 0), car)"
    assert coding.unknown(0x000009, 1) == "(0, 0, 9) (1 pixels; the nearest is (0, 0, 0), ignore)"
    assert of((0, "road")).unknown(37, 5) == "37 (5 pixels)"


def test_other_classes_are_matched_by_name() -> None:
    coding = of((0, "road"), (4, "sky"), (6, "car"), (9, "void")).with_classes(
        ClassMap(("sky", "tree", "road"))
    )
    assert coding.classes.names == ("sky", "tree", "road")
    assert coding.index(np.array([0, 4, 6, 9])).tolist() == [2, 0, IGNORE, IGNORE]


def test_lines_of_a_table_as_numbers() -> None:
    entries = Entries([(0x800000, "car"), (0, "void"), (7, "road")], True, "here").numbered()
    assert entries == Entries([(0, "car"), (1, "void"), (2, "road")], False, "here")
    assert entries.has(2) and not entries.has(7)
