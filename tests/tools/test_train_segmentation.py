"""Segmentation through the engine: from masks to a model, whose figures are eval's, and what predict writes."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from retinue.tasks import model_file
from retinue.tools import command, run_folder, train
from retinue.tools import evaluate as evaluation
from retinue.tools.evaluate import evaluate
from retinue.tools.predict import predict
from retinue.tools.run_folder import finite

SMALL: dict[str, Any] = {
    "backbone": "resnet18", "imgsz": 48, "batch": 3, "epochs": 1, "workers": 0, "warmup": 0, "lr": "0.003",
    "optimizer": "adamw", "precision": "fp32", "device": "cpu", "levels": ["c1", "c2", "c3"], "widths": [16, 16],
    "depth": 1,
}  # fmt: skip
SIZES = [(50, 66), (48, 80), (64, 48), (56, 56)]


@pytest.fixture(scope="module")
def data(paint_masks: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_masks(tmp_path_factory.mktemp("masks"), train=[*SIZES, *SIZES], val=SIZES[:3])


@pytest.fixture(scope="module", autouse=True)
def no_curves() -> Iterator[None]:
    """Curves are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "draw_plots", lambda *_: None)
        patch.setattr(run_folder, "plot_results", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train.train(
        "encoder_decoder", data=str(data), project=str(tmp_path_factory.mktemp("runs")), **SMALL
    )


@pytest.fixture
def written(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """written(words...) -> exit status, standard output, standard error, the results' folder."""

    def written(*words: Any) -> tuple[int, str, str, Path]:
        asked = ["predict", str(trained), f"project={tmp_path}", "name=r", "device=cpu", *map(str, words)]
        status = command.main(asked)
        said = capsys.readouterr()
        return status, said.out, said.err, tmp_path / "r"

    return written


def test_what_a_run_leaves(trained: Path) -> None:
    (row,) = csv.DictReader((trained / "results.csv").read_text().splitlines())
    assert {"train/pixel", "miou", "pixel_accuracy", "boundary_iou"} <= row.keys() and "miou/disc" not in row
    assert 0 <= float(row["miou"]) <= 1
    metrics = model_file.read_header(trained / "weights/best.safetensors")["metrics"]
    assert metrics["miou"] == pytest.approx(float(row["miou"]), abs=1e-5) and "miou/disc" in metrics
    said = (trained / "train.log").read_text()
    assert "ground" in said and "2: 0 ground, 1 disc" in said and "miou 0." in said
    assert {"first_batch.jpg", "val_predictions.jpg"} <= {path.name for path in trained.iterdir()}


def test_eval_gives_the_numbers_that_training_printed(trained: Path, data: Path) -> None:
    weights = trained / "weights/last.safetensors"
    for workers in (0, 1):
        values = evaluate(str(weights), data=str(data), workers=workers, device="cpu")
        assert finite(values) == model_file.read_header(weights)["metrics"]
    assert next(iter(values)) == "miou" and {"miou/ground", "miou/disc"} <= values.keys()


def test_classes_go_by_name_and_values_may_be_said(trained: Path, data: Path, tmp_path: Path) -> None:
    """The same masks with other numbers, named by values=, give the same figures."""
    other = tmp_path / "other"
    for split in ("train", "val"):
        for folder in (split, f"{split}annot"):
            (other / folder).mkdir(parents=True)
            for path in (data / folder).iterdir():
                image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
                if folder != split:
                    image = np.array([7, 3, *[0] * 9, 200], np.uint8)[image]
                assert cv2.imwrite(str(other / folder / path.name), image)
    expected = evaluate(str(trained), data=str(data), workers=0, device="cpu")
    asked = {"values": "3:disc,7:ground,200:ignore", "workers": 0, "device": "cpu"}
    assert evaluate(str(trained), data=str(other), **asked) == expected
    (tmp_path / "values.txt").write_text("3 disc\n7 ground\n200 ignore\n")
    assert (
        evaluate(str(trained), data=str(other), **asked | {"values": str(tmp_path / "values.txt")})
        == expected
    )


def test_a_run_goes_on_with_the_values_that_it_began_with(data: Path, tmp_path: Path) -> None:
    said = {"values": "0:floor,1:ball,11:ignore"}
    folder = train.train("encoder_decoder", data=str(data), project=str(tmp_path), **SMALL, **said)
    assert run_folder.read_args(folder)["values"] == said["values"]
    header = model_file.read_header(folder / "weights/best.safetensors")
    assert list(header["metrics"])[-1].endswith("/ball")
    assert train.train(resume=str(folder)) == folder
    assert command.main(["train", f"resume={folder}", "values=0:ball,1:floor,11:ignore"]) == 2


def test_predict_writes_a_drawing_the_labels_and_json(written: Any, trained: Path, data: Path) -> None:
    status, out, err, folder = written(data / "val")
    assert (status, err) == (0, "")
    assert {p.name for p in folder.iterdir()} == {
        "args.yaml", "results.json", *(f"{i:03d}{ending}.png" for i in range(3) for ending in ("", "-labels"))
    }  # fmt: skip
    records = json.loads((folder / "results.json").read_text())["results"]
    for line, record, size in zip(out.splitlines(), records, SIZES):
        assert record["drawn"] == [Path(record["path"]).name]
        assert record["files"] == [f"{Path(record['path']).stem}-labels.png"]
        labels = np.asarray(Image.open(folder / record["files"][0]))
        assert labels.shape == size and labels.dtype == np.uint8 and labels.max() <= 1
        drawn = cv2.imread(str(folder / record["drawn"][0]))
        assert drawn.shape[1] >= size[1] and ("ground" in line or "disc" in line)
        (found,) = predict(str(trained), record["path"], device="cpu")
        assert np.array_equal(found.results["encoder_decoder"].labels, labels)


def test_a_turned_photograph_has_its_labels_upright(written: Any, data: Path, tmp_path: Path) -> None:
    upright = Image.open(data / "val/001.png")
    exif = Image.Exif()
    exif[274] = 6  # stored lying, to be turned clockwise
    (tmp_path / "in").mkdir()
    upright.save(tmp_path / "in/plain.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "in/turned.png", exif=exif)
    status, _, _, folder = written(tmp_path / "in", "batch=1")
    plain, turned = (np.asarray(Image.open(folder / f"{name}-labels.png")) for name in ("plain", "turned"))
    assert status == 0 and plain.shape == SIZES[1] and np.array_equal(plain, turned)
    assert np.array_equal(cv2.imread(str(folder / "plain.png")), cv2.imread(str(folder / "turned.png")))


def test_files_without_drawings_and_names_that_are_taken(written: Any, data: Path, tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        (tmp_path / "in" / name).write_bytes((data / "val/000.png").read_bytes())
    status, _, _, folder = written(tmp_path / "in", "draw=false")
    records = json.loads((folder / "results.json").read_text())["results"]
    assert status == 0 and [r["files"] for r in records] == [["x-labels.png"], ["x-2-labels.png"]]
    assert all("drawn" not in record for record in records) and not (folder / "x.png").exists()


def test_views_and_tiles_on_the_command_line(written: Any, trained: Path, data: Path, capsys: Any) -> None:
    assert written(data / "val", "flip=true", "scales=0.75,1", "tile=32", "overlap=8")[0] == 0
    plain = evaluate(str(trained), data=str(data), workers=0, device="cpu")
    capsys.readouterr()
    asked: dict[str, Any] = {"data": str(data), "workers": 0, "device": "cpu"}
    augmented = evaluate(str(trained), **asked, flip=True, scales=[0.75, 1, 1.25])
    assert "fp32 flip=true scales=0.75,1,1.25)" in capsys.readouterr().out
    assert augmented.keys() == plain.keys() and augmented != plain
    tiled = evaluate(str(trained), **asked, tile=32, overlap=8)
    assert "fp32 tile=32 overlap=8)" in capsys.readouterr().out and tiled != plain


def test_a_tile_as_large_as_the_picture_is_the_plain_answer(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    """Where evaluation does not resize, either."""
    picture = tmp_path / "one.png"
    picture.write_bytes((data / "val/001.png").read_bytes())  # its shorter side is imgsz
    (plain,) = predict(str(trained), picture, device="cpu")
    (tiled,) = predict(str(trained), picture, device="cpu", tile=512)
    assert np.array_equal(plain.results["encoder_decoder"].labels, tiled.results["encoder_decoder"].labels)


def test_videos_are_overlaid(written: Any, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for i in range(5):
        writer.write(np.full((48, 64, 3), (40 * i, 30, 200 - 40 * i), np.uint8))
    writer.release()
    status, out, _, folder = written(tmp_path / "clip.avi", "every=2", "tile=32", "overlap=0")
    assert status == 0 and "3 frames" in out
    records = json.loads((folder / "results.json").read_text())["results"]
    assert [r["frame"] for r in records] == [0, 2, 4] and all("files" not in r for r in records)
    assert {p.name for p in folder.iterdir()} == {"args.yaml", "results.json", "clip.mp4"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tile=0"], "tile is at least 1"),
        (["overlap=-1"], "overlap is at least 0"),
        (["tile=32", "overlap=32"], "overlap=32: too much for tile=32"),
        (["scales=0"], "scales=0.0: numbers above 0"),
        (["scales=1,nan"], "scales=1.0,nan"),
        (["scales=big"], "scales=big: scales is a number"),
        (["flip=perhaps"], "flip=perhaps: say true or false"),
    ],
)
def test_bad_usage_is_2(words: list[str], said: str, written: Any, data: Path) -> None:
    status, _, err, folder = written(data / "val", *words)
    assert status == 2 and said in err and not folder.exists()


@pytest.mark.parametrize("words", [["tile=64"], ["flip=true"], ["scales=0.5,1"]])
def test_a_classifier_has_no_views_and_no_tiles(
    words: list[str], saved: Path, paint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(saved), str(paint(tmp_path / "x.png")), f"project={tmp_path}", "device=cpu", *words]
    assert command.main(["predict", *asked]) == 2
    said = capsys.readouterr().err
    assert words[0] in said and "classification does not: leave it out" in said


def test_check_says_what_the_masks_hold(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["check", str(data), f"json={tmp_path / 'a.json'}"]) == 0
    said = capsys.readouterr().out
    assert (
        "2: 0 ground, 1 disc" in said and "train    8 pictures: ground 84." in said and "ignored 4." in said
    )
    assert command.main(["check", str(data), "values=0:one,1:two,11:three"]) == 0
    said = capsys.readouterr().out
    assert "3: 0 one (id 0), 1 two (id 1), 2 three (id 11)" in said and "ignored 0.00%" in said
    assert command.main(["check", str(data), "values=0:one,1:two"]) == 2
    said = capsys.readouterr().err
    assert "11 (" in said and "000.png" in said and "Traceback" not in said
