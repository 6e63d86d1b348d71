"""CSV lists: every malformed line is named, and nothing outside the CSV's folder is read."""

import random
from pathlib import Path

import pytest
from PIL import Image

from retinue.datasets.csv_list import CsvList, splits
from retinue.datasets.targets import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "img").mkdir(parents=True)
    for name in ("a", "b", "c", "d", "e, f"):
        Image.new("RGB", (4, 3)).save(root / "img" / f"{name}.png")
    Image.new("RGB", (4, 3)).save(tmp_path / "outside.png")
    return root


def write(folder: Path, text: str, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_columns_by_any_of_their_names(folder: Path) -> None:
    file = write(
        folder, '\ufeffid,Filename,Class\n1,img/b.png,dog\n2,"img/e, f.png",cat\n\n3, ./img/a.png ,dog\n'
    )
    data = CsvList(file)
    assert data.classes.names == data.classes.ids == ("cat", "dog")
    assert [data.id(i) for i in range(3)] == ["img/b.png", "img/e, f.png", "img/a.png"]
    assert data.labels.tolist() == [1, 0, 1]
    assert data[1].image.shape == (3, 4, 3)
    assert data[1].targets["label"] == 0
    semicolons = write(folder, "image;label\nimg/a.png;x, y\n", "semicolons.csv")
    assert CsvList(semicolons).classes.names == ("x, y",)


def test_whole_numbers_stay_ids_in_numeric_order(folder: Path) -> None:
    data = CsvList(write(folder, "image,label\nimg/a.png,10\nimg/b.png,2\nimg/c.png,7\n"))
    assert data.classes.ids == (2, 7, 10)
    assert data.classes.names == ("2", "7", "10")
    assert data.labels.tolist() == [2, 0, 1]


def test_split_column(folder: Path) -> None:
    file = write(
        folder,
        "image,label,split\nimg/a.png,x,train\nimg/b.png,y,Training\nimg/c.png,x,valid\nimg/d.png,y,test\n",
    )
    found = splits(str(file))
    assert {name: len(part) for name, part in found.items()} == {"train": 2, "val": 1, "test": 1}
    assert {name: part.split for name, part in found.items()} == {
        "train": "train",
        "val": "val",
        "test": "test",
    }
    assert all(part.classes.names == ("x", "y") for part in found.values())
    assert len(CsvList(file)) == 4


def test_a_class_that_training_lacks_is_named(folder: Path) -> None:
    file = write(folder, "image,label,split\nimg/a.png,x,train\nimg/b.png,y,val\n")
    with pytest.raises(
        DataError, match=r"list.csv:3: class 'y' of 'img/b.png' is not among the known classes \['x'\]"
    ):
        splits(str(file))


def test_one_file_a_split(folder: Path) -> None:
    write(folder, "image,label\nimg/a.png,x\nimg/b.png,y\n", "train.csv")
    write(folder, "image,label\nimg/c.png,y\n", "val.csv")
    write(folder, "other,columns\n1,2\n", "notes.csv")
    found = splits(str(folder))
    assert list(found) == ["train", "val"]
    assert found["val"].labels.tolist() == [1]
    assert found["val"].split == "val"


def test_without_splits_a_part_is_held_out(folder: Path) -> None:
    file = write(folder, "image,label\n" + "".join(f"img/{n}.png,x\n" for n in "abcd"))
    for found in (splits(str(file)), splits(str(folder))):
        assert [len(part) for part in found.values()] == [3, 1]
        assert "no splits" in found["val"].remarks[0]


def test_what_is_not_ours_is_left_alone(folder: Path) -> None:
    boxes = write(folder, "image,xmin,ymin,xmax,ymax,label\nimg/a.png,0,0,1,1,x\n", "boxes.csv")
    assert splits(str(boxes)) == splits(str(folder)) == splits(str(folder / "none.csv")) == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../../etc/passwd,x", "'../../etc/passwd' leads outside"),
        ("/etc/passwd,x", "'/etc/passwd' leads outside"),
        ("img/../../outside.png,x", "leads outside"),
        ("../data2/a.png,x", "leads outside"),
        ("link.png,x", "'link.png' leads outside"),
        ("linked/outside.png,x", "leads outside"),
        (".,x", "leads outside"),
        (",x", "'' is not a path"),
        ("img/b.png\0,x", "is not a path"),
        ("img/b.png,", "the label of 'img/b.png' is ''"),
        ("img/b.png,NaN", "is 'NaN'"),
        ("img/b.png", "1 fields, the header has 2"),
        ("img/b.png,x,y", "3 fields, the header has 2"),
        ("img/a.png,x", "named in line 2 already"),
        ('img/b.png,"x', "not readable as CSV"),
    ],
)
def test_a_bad_line_is_named_with_its_number(folder: Path, line: str, message: str) -> None:
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    (folder / "linked").symlink_to(folder.parent, target_is_directory=True)
    file = write(folder, f"image,label\nimg/a.png,x\n{line}\n")
    with pytest.raises(DataError) as error:
        CsvList(file)
    assert message in str(error.value)
    assert f"{file}:3: " in str(error.value)


def test_absolute_paths_inside_the_folder_are_allowed(folder: Path) -> None:
    data = CsvList(write(folder, f"image,label\n{folder}/img/a.png,x\n"))
    assert data.id(0) == "img/a.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 image columns"),
        ("image,label\n", "names no pictures"),
        ("image,words\na,b\n", "0 label columns"),
        ("image,path,label\na,b,c\n", "2 image columns"),
        ("image,label,split\nimg/a.png,x,somewhere\n", "'somewhere' is no split"),
    ],
)
def test_a_bad_header_is_named(folder: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        CsvList(write(folder, text))


def test_missing_pictures_are_skipped_unless_strict(folder: Path) -> None:
    file = write(folder, "image,label\nimg/a.png,x\nimg/gone.png,x\n")
    data = CsvList(file)
    assert [data.id(i) for i in range(len(data))] == ["img/a.png"]
    assert data.skipped == [(folder / "img/gone.png", "there is no such file")]
    with pytest.raises(DataError, match=r"1 of 2 pictures do not exist.*gone.png"):
        CsvList(file, strict=True)
    with pytest.raises(DataError, match=r"1 of 1 pictures do not exist.*gone.png"):
        CsvList(write(folder, "image,label\nimg/gone.png,x\n"))


def test_not_utf8(folder: Path) -> None:
    (folder / "latin.csv").write_bytes("image,label\nimg/a.png,café\n".encode("latin1"))
    with pytest.raises(DataError, match="not UTF-8"):
        CsvList(folder / "latin.csv")


def test_mutated_files_raise_only_data_errors(folder: Path) -> None:
    text = b'image,label,split\nimg/a.png,x,train\n"img/e, f.png",y,val\nimg/b.png,y,test\n'
    random_ = random.Random(0)
    read = 0
    file = folder / "mutated.csv"
    for _ in range(400):
        data = bytearray(text)
        for _ in range(random_.randint(1, 4)):
            at = random_.randrange(len(data))
            piece = random_.choice(
                [b"", b'"', b",", b"\n", b"\r", b"\0", b"../", b"/", b"\xff", b";", b"nan", b"\t"]
            )
            data[at : at + random_.randint(0, 3)] = piece
        file.write_bytes(data)
        for build in (lambda: list(splits(str(file)).values()), lambda: [CsvList(file)]):
            try:
                parts = build()
            except DataError:
                continue
            for part in parts:
                read += 1
                for i in range(len(part)):
                    assert part.path(i).resolve().is_relative_to(folder.resolve())
    assert read > 20
