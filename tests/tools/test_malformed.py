"""Malformed pictures in the training data: skipped by name, or with strict=true the end, never a traceback."""

import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retinue.tools import command, train

ODD = Path(__file__).parents[3] / "shared/data/test_photos/pillow"
UNUSABLE = {"broken_data_stream.png", "truncated_end_chunk.png", "truncated_image.png"}


@pytest.fixture
def trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> Callable[..., tuple[int, str, str]]:
    """trained(data, words...) -> exit status, standard output, standard error of one small epoch."""
    for slow in ("evaluate.draw_plots", "run_folder.plot_results"):  # tested elsewhere
        monkeypatch.setattr(f"retinue.tools.{slow}", lambda *_: None)

    def trained(data: Path, *words: str) -> tuple[int, str, str]:
        options = [
            "backbone=lenet5",
            "imgsz=32",
            "batch=16",
            "epochs=1",
            "workers=0",
            f"project={tmp_path / 'runs'}",
        ]
        status = command.main(["train", "classification", f"data={data}", *options, *words])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return status, shown.out, shown.err

    return trained


def skipped(out: str) -> set[str]:
    """Names of the files that the log says were skipped."""
    return {Path(found).name for found in re.findall(r"^skipped: (.+?): ", out, re.MULTILINE)}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(path: Path, side: int = 17000) -> None:
    """A PNG of one colour, side x side RGB, in a few hundred kilobytes."""
    row = zlib.compressobj(9)
    data = b"".join(row.compress(b"\0" + bytes(3 * side)) for _ in range(side // 100))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", data + row.flush())
        + chunk(b"IEND", b"")
    )


def write_zoo(folder: Path, paint: Any) -> set[str]:
    """Usable and unusable pictures of many kinds; returns the names of the unusable ones."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (24, 30, 3), np.uint8)
    picture = Image.fromarray(pixels)
    picture.quantize(16).save(folder / "palette.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("L").save(folder / "grey.png")
    Image.fromarray(np.arange(24 * 30, dtype=np.uint16).reshape(24, 30) * 90).save(folder / "deep.png")
    picture.resize((1, 1)).save(folder / "one.png")
    picture.save(folder / "moving.gif", save_all=True, append_images=[picture.convert("L")])
    picture.save(folder / "picture.png.jpg", format="PNG")
    picture.save(folder / "good.jpg")
    whole_jpeg, whole_png = (folder / "good.jpg").read_bytes(), (folder / "grey.png").read_bytes()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(whole_jpeg[: len(whole_jpeg) // 2])
    (folder / "cut.png").write_bytes(whole_png[:-20])
    (folder / "magic.png").write_bytes(b"\x88" + whole_png[1:])
    (folder / "page.jpg").write_bytes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>")
    (folder / "folder.png").symlink_to("nowhere.png")
    bomb(folder / "bomb.png")
    bomb(folder / "large bomb.png", side=100_000)
    return {
        "empty.jpg",
        "cut.jpg",
        "cut.png",
        "magic.png",
        "page.jpg",
        "folder.png",
        "bomb.png",
        "large bomb.png",
    }


def test_training_skips_and_names_exactly_the_unusable_ones(
    trained: Any, paint: Any, paint_folder: Any, tmp_path: Path
) -> None:
    data = paint_folder(tmp_path / "data", train={"blue": 3, "red": 3}, val={"blue": 1, "red": 1})
    bad = write_zoo(data / "train/red", paint)
    (data / "val/blue/bad.png").write_bytes(b"x")
    status, out, _ = trained(data)
    assert status == 0
    assert skipped(out) == bad | {"bad.png"}
    assert re.search(
        rf"^train: {len(bad)} of 22 pictures cannot be used; strict=true stops instead$", out, re.MULTILINE
    )
    assert re.search(r"^train: 1 pictures: .*16", out, re.MULTILINE), out  # what is done to odd ones is said
    log = next((tmp_path / "runs").rglob("train.log")).read_text()
    assert skipped(log) == skipped(out)


def test_strict_names_them_all_and_stops_with_2(
    trained: Any, paint: Any, paint_folder: Any, tmp_path: Path
) -> None:
    data = paint_folder(tmp_path / "data", train={"blue": 3, "red": 3}, val={"blue": 1, "red": 1})
    bad = write_zoo(data / "train/red", paint)
    status, _, err = trained(data, "strict=true")
    assert status == 2
    assert {name for name in bad if f"/{name}: " in err} == bad
    assert not (tmp_path / "runs").exists()
    assert "good.jpg" not in err and "deep.png" not in err


def test_the_malformed_files_at_hand(trained: Any, paint_folder: Any, tmp_path: Path) -> None:
    if not ODD.is_dir():
        pytest.skip(f"needs {ODD}")
    data = paint_folder(tmp_path / "data", train={"blue": 3, "red": 3}, val={"blue": 1, "red": 1})
    for path in sorted(p for p in ODD.rglob("*") if p.is_file() and p.suffix):
        shutil.copyfile(path, data / "train/red" / path.name)
    status, out, _ = trained(data)
    assert status == 0 and skipped(out) == UNUSABLE
    status, _, err = trained(data, "strict=true")
    assert status == 2 and all(name in err for name in UNUSABLE)


def test_a_split_without_a_usable_picture_is_named(trained: Any, paint_folder: Any, tmp_path: Path) -> None:
    data = paint_folder(tmp_path / "data", train={"blue": 1, "red": 1})
    for path in data.rglob("*.png"):
        path.write_bytes(b"")
    status, _, err = trained(data)
    assert status == 2 and "blue/0.png" in err


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_file_that_spoils_after_the_scan_ends_with_its_name(
    split: str, workers: int, trained: Any, paint_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = paint_folder(tmp_path / "data", train={"blue": 3, "red": 3}, val={"blue": 2, "red": 2})
    real = train.open_folder

    def spoil(setup: Any) -> None:
        real(setup)
        (data / split / "red/1.png").write_bytes(b"\x89PNG gone")

    monkeypatch.setattr(train, "open_folder", spoil)
    status, _, err = trained(data, f"workers={workers}")
    assert status == 2 and f"{split}/red/1.png" in err
    assert len(err.strip().splitlines()) == 1


def test_a_class_whose_pictures_are_all_unusable_trains_on(
    trained: Any, paint_folder: Any, tmp_path: Path
) -> None:
    data = paint_folder(tmp_path / "data", train={"blue": 3, "green": 1, "red": 3}, val={"blue": 1, "red": 1})
    (data / "train/green/0.png").write_bytes(b"")
    status, out, _ = trained(data)
    assert status == 0 and skipped(out) == {"0.png"}


@pytest.mark.parametrize(
    ("layout", "status"),
    [
        ({"train": {"red": 4}, "val": {"red": 2}}, 0),
        ({"train": {"blue": 1, "red": 1}}, 0),
        ({"train": {"blue": 3, "red": 3}, "val": {"red": 2}}, 0),
        ({"train": {"blue": 3, "red": 3}, "test": {"red": 2}}, 0),
        ({"train": {"blue": 3}, "val": {"blue": 1, "red": 2}}, 2),
        ({"val": {"blue": 1, "red": 2}}, 2),
    ],
)
def test_sparse_data(
    layout: dict[str, dict[str, int]], status: int, trained: Any, paint_folder: Any, tmp_path: Path
) -> None:
    """One class, one picture a class, no val, a class that val lacks, one that train lacks, no train."""
    data = paint_folder(tmp_path / "my data, größer", **layout)
    assert trained(data)[0] == status


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("batch=0", "batch is at least 1"),
        ("epochs=0", "epochs is at least 1"),
        ("imgsz=-1", "imgsz is at least 1"),
        ("lr=abc", "lr=abc"),
        ("lr=-1", "lr=-1"),
        ("lr=nan", "lr=nan"),
        ("seeds=0", "seeds is at least 1"),
        ("workers=-1", "workers is at least 0"),
        ("ema=2", "ema is at most 1"),
        ("seed=-1", "seed is at least 0"),
        ("warmup=inf", "warmup is at least 0"),
        ("channels=0", "channels is at least 1"),
        ("channels=5", "has 3 channels where 5"),
        ("step_epochs=0", "step_epochs is at least 1"),
        ("momentum=-1", "momentum is at least 0"),
        ("dropout=2", "dropout is in"),
        ("mixup=-1", "mixup is at least 0"),
        ("crop_scale=2,1", "0 < least"),
        ("name=..", "name=.."),
        ("name=a/b", "name=a/b"),
        ("json=.", "json=."),
        ("backbone=fpn", "no backbone 'fpn'"),
        ("tune=everything", "tune=everything"),
        ("weights=nowhere.pth", "nowhere.pth"),
        ("model=nowhere.safetensors", "nowhere.safetensors"),
    ],
)
def test_weird_values_are_named(
    word: str, said: str, trained: Any, paint_folder: Any, tmp_path: Path
) -> None:
    data = paint_folder(tmp_path / "data", train={"blue": 2, "red": 2})
    status, _, err = trained(data, word)
    assert status == 2 and said in err and len(err.strip().splitlines()) == 1


def test_model_and_weights_are_two_starts(
    trained: Any, paint_folder: Any, saved: Path, tmp_path: Path
) -> None:
    data = paint_folder(tmp_path / "data", train={"blue": 2, "red": 2})
    status, _, err = trained(data, f"model={saved}", "weights=imagenet")
    assert status == 2 and "leave out weights=imagenet" in err


def test_a_run_under_a_new_head_resumes(trained: Any, paint_folder: Any, saved: Path, tmp_path: Path) -> None:
    data = paint_folder(tmp_path / "data", train={"blue": 2, "green": 2})
    assert trained(data, f"model={saved}", "name=new")[0] == 0
    assert command.main(["train", f"resume={tmp_path / 'runs/classification/new'}/"]) == 0


def test_batch_norm_on_single_values_ends_with_a_remedy(
    trained: Any, paint_folder: Any, tmp_path: Path
) -> None:
    data = paint_folder(tmp_path / "data", train={"blue": 2, "red": 2})
    status, _, err = trained(data, "backbone=resnet18", "batch=1")
    assert status == 2 and "larger batch" in err
