"""Predict: what is written, on which pictures, and that neither a batch nor a neighbour changes an answer."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torchvision.models
from PIL import Image

from retinue.datasets.targets import ClassMap
from retinue.tasks import model_file
from retinue.tasks.classification.classification import Classifier
from retinue.tasks.task import Model
from retinue.tools import command, drawings, predict

WEIGHTS = Path(__file__).parents[3] / "shared/data/weights"
PHOTO = Path(__file__).parents[3] / "shared/data/test_photos/photos/dog.jpg"


@pytest.fixture
def run(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str, Path]]:
    """run(words...) -> exit status, standard output, standard error, the results' folder."""

    def run(*words: Any, model: Any = saved) -> tuple[int, str, str, Path]:
        project = tmp_path / "out"
        status = command.main(
            ["predict", str(model), f"project={project}", "name=r", "device=cpu", *map(str, words)]
        )
        shown = capsys.readouterr()
        return status, shown.out, shown.err, project / "r"

    return run


def test_files_folders_and_patterns(run: Any, paint: Any, tmp_path: Path) -> None:
    one = paint(tmp_path / "one.jpg")
    paint(tmp_path / "folder/deep/two.png", "blue")
    paint(tmp_path / "many/a1.png"), paint(tmp_path / "many/a2.png"), paint(tmp_path / "many/b.png")
    status, out, err, folder = run(one, tmp_path / "folder", tmp_path / "many/a*.png", one)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    names = ["one.jpg", "two.png", "a1.png", "a2.png"]
    assert [Path(line.partition(": ")[0]).name for line in lines[:-1]] == names
    assert lines[-1] == f"4 pictures -> {folder}"
    value = json.loads((folder / "results.json").read_text())
    assert [Path(r["path"]).name for r in value["results"]] == names and value["skipped"] == []
    assert {p.name for p in folder.iterdir()} == {*names, "results.json", "args.yaml"}
    for record in value["results"]:
        answer = record["classification"]
        assert (
            answer["label"] == answer["top"][0]["name"] and answer["score"] == answer["top"][0]["probability"]
        )
        assert sum(c["probability"] for c in answer["top"]) == pytest.approx(1, abs=1e-5)
        drawn = cv2.imread(str(folder / record["drawn"][0]))
        assert drawn.shape[:2] == (28, 36) and not np.array_equal(drawn, cv2.imread(record["path"]))


def test_equal_file_names_do_not_overwrite_each_other(run: Any, paint: Any, tmp_path: Path) -> None:
    for name, colour in (("a/x.jpg", "red"), ("b/x.jpg", "blue"), ("c/x.JPEG", "green"), ("c/x.png", "red")):
        paint(tmp_path / "in" / name, colour)
    status, _, _, folder = run(tmp_path / "in")
    assert status == 0
    records = json.loads((folder / "results.json").read_text())["results"]
    drawn = {Path(r["path"]).relative_to(tmp_path / "in").as_posix(): r["drawn"] for r in records}
    assert drawn == {
        "a/x.jpg": ["x.jpg"], "b/x.jpg": ["x-2.jpg"], "c/x.JPEG": ["x-3.jpg"], "c/x.png": ["x.png"]
    }  # fmt: skip
    assert cv2.imread(str(folder / "x-2.jpg"))[-1, -1, 0] > 150 > cv2.imread(str(folder / "x.jpg"))[-1, -1, 0]


def odd_pictures(folder: Path) -> dict[str, Path]:
    """The same red picture with a blue corner, in every way that a file may hold it, and a grey one in two."""
    folder.mkdir()
    pixels = np.full((24, 40, 3), (200, 30, 30), np.uint8)
    pixels[:12, :20] = (30, 30, 200)
    rgb, grey = Image.fromarray(pixels), Image.fromarray(pixels[..., 0])
    paths = {
        n: folder / n for n in ("rgb.png", "rgba.png", "deep.png", "turned.png", "grey.png", "grey3.png")
    }
    rgb.save(paths["rgb.png"])
    alpha = Image.fromarray(np.full((24, 40), 255, np.uint8))
    alpha.putpixel((0, 0), 0)
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    rgba.save(paths["rgba.png"])
    assert cv2.imwrite(str(paths["deep.png"]), pixels[..., ::-1].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[274] = 6  # stored lying, to be turned clockwise
    rgb.transpose(Image.Transpose.ROTATE_90).save(paths["turned.png"], exif=exif)
    grey.save(paths["grey.png"])
    Image.merge("RGB", [grey] * 3).save(paths["grey3.png"])
    return paths


def test_odd_pictures_give_the_answers_of_their_plain_twins(saved: Path, tmp_path: Path) -> None:
    paths = odd_pictures(tmp_path / "odd")
    found = {p.path.name: p.results["classification"] for p in predict.predict(str(saved), tmp_path / "odd")}
    assert found.keys() == paths.keys()
    twins = {"rgba.png": "rgb.png", "deep.png": "rgb.png", "turned.png": "rgb.png", "grey.png": "grey3.png"}
    for odd, plain in twins.items():
        assert np.allclose(found[odd].probabilities, found[plain].probabilities, atol=1e-6), odd
    assert not np.allclose(found["rgb.png"].probabilities, found["grey.png"].probabilities, atol=1e-4)


def test_cmyk_and_turned_pictures_are_drawn_upright_in_rgb(run: Any, paint: Any, tmp_path: Path) -> None:
    Image.new("CMYK", (40, 24), (0, 255, 255, 40)).save(tmp_path / "cmyk.jpg")
    odd_pictures(tmp_path / "odd")
    status, _, _, folder = run(tmp_path / "cmyk.jpg", tmp_path / "odd/turned.png")
    assert status == 0
    red = cv2.imread(str(folder / "cmyk.jpg"))
    assert red.shape == (24, 40, 3) and red[20, 38, 2] > 150 > red[20, 38, 0]
    assert cv2.imread(str(folder / "turned.png")).shape == (24, 40, 3)


def test_unreadable_pictures_are_skipped_by_name(run: Any, paint: Any, tmp_path: Path) -> None:
    good = paint(tmp_path / "in/good.png")
    (tmp_path / "in/bad.jpg").write_bytes(b"<html>")
    (tmp_path / "in/empty.png").write_bytes(b"")
    status, out, _, folder = run(tmp_path / "in")
    assert status == 0
    assert [line for line in out.splitlines() if line.startswith("skipped")] == [
        line for line in out.splitlines() if "bad.jpg" in line or "empty.png" in line
    ]
    assert out.splitlines()[-1] == f"1 picture, 2 skipped -> {folder}"
    value = json.loads((folder / "results.json").read_text())
    assert [r["path"] for r in value["results"]] == [str(good)]
    assert [Path(s["path"]).name for s in value["skipped"]] == ["bad.jpg", "empty.png"]
    assert all(Path(s["path"]).name in s["reason"] for s in value["skipped"])


def test_strict_stops_with_2_and_keeps_what_was_computed(run: Any, paint: Any, tmp_path: Path) -> None:
    (
        paint(tmp_path / "in/a.png"),
        (tmp_path / "in/b.png").write_bytes(b"no picture"),
        paint(tmp_path / "in/c.png"),
    )
    status, _, err, folder = run(tmp_path / "in", "strict=true", "batch=1")
    assert status == 2 and "b.png" in err
    assert [Path(r["path"]).name for r in json.loads((folder / "results.json").read_text())["results"]] == [
        "a.png"
    ]


def test_an_interrupted_run_keeps_what_was_computed(
    run: Any, paint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        paint(tmp_path / "in" / f"{name}.png")
    real = drawings.write_picture

    def interrupted(path: Path, picture: np.ndarray) -> None:
        if path.name == "c.png":
            raise KeyboardInterrupt
        real(path, picture)

    monkeypatch.setattr(drawings, "write_picture", interrupted)
    status, _, err, folder = run(tmp_path / "in")
    assert status == 1 and "interrupted" in err
    kept = json.loads((folder / "results.json").read_text())["results"]
    assert [record["drawn"] for record in kept] == [["a.png"], ["b.png"]]
    assert {p.name for p in folder.iterdir()} == {"a.png", "b.png", "results.json", "args.yaml"}


def test_nothing_readable_is_2(run: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"x" * 10)
    status, _, err, _ = run(tmp_path / "bad.jpg")
    assert status == 2 and "bad.jpg" in err and "none of the 1" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["batch=0"], "batch is at least 1"),
        (["batch=-3"], "batch is at least 1"),
        (["device=nothing"], "device=nothing"),
        (["weights=imagenet"], "holds its own weights"),
        (["nowhere/*.jpg"], "nowhere"),
        (["json=."], "json=."),
        (["precision=fp64"], "choose one of"),
        (["confidence=0.5"], "no option 'confidence'"),
    ],
)
def test_bad_usage_is_2_before_anything_is_written(
    words: Any, said: str, run: Any, paint: Any, tmp_path: Path
) -> None:
    picture = paint(tmp_path / "x.png")
    status, _, err, folder = run(picture, *words)
    assert status == 2 and said in err and "Traceback" not in err
    assert not folder.exists()


@pytest.mark.parametrize("name", ["a/b", "..", "../x", "."])
def test_a_name_that_leads_elsewhere_is_refused(
    name: str, saved: Path, paint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, project = paint(tmp_path / "photos/x.png"), tmp_path / "photos"
    words = ["predict", str(saved), str(picture), f"project={project}", f"name={name}", "exist_ok=true"]
    assert command.main(words) == 2
    assert f"name={name}" in capsys.readouterr().err and picture.exists()


def test_exist_ok_replaces_runs_and_nothing_else(
    saved: Path, paint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = paint(tmp_path / "photos/x.png")
    words = ["predict", str(saved), str(picture), f"project={tmp_path}", "exist_ok=true"]
    assert command.main([*words, "name=photos"]) == 2
    assert picture.exists() and "is not replaced" in capsys.readouterr().err
    for _ in range(2):
        assert command.main([*words, "name=mine"]) == 0
    assert not (tmp_path / "mine-2").exists()


def test_json_for_programs(run: Any, paint: Any, tmp_path: Path) -> None:
    paint(tmp_path / "in/a.png"), (tmp_path / "in/b.png").write_bytes(b"")
    status, out, err, folder = run(tmp_path / "in", "json=-")
    assert status == 0 and "skipped" in err and "a.png" in err
    assert json.loads(out) == json.loads((folder / "results.json").read_text())
    status, _, _, _ = run(tmp_path / "in", f"json={tmp_path / 'new/r.json'}", "draw=false", "exist_ok=true")
    assert status == 0 and json.loads((tmp_path / "new/r.json").read_text())["results"]
    assert {p.name for p in folder.iterdir()} == {"results.json", "args.yaml"}


def test_spaces_and_umlauts_and_a_trailing_slash(
    paint: Any, tiny: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = Path("läufe/mein lauf/weights")
    weights.mkdir(parents=True)
    model_file.save(tiny(), weights / "best.safetensors", imgsz=32)
    paint(Path("my pictures/größe 1.png").absolute())
    assert command.main(["predict", "läufe/mein lauf/", "my pictures/"]) == 0
    assert Path("runs/predict/mein lauf/größe 1.png").is_file()
    assert command.main(["predict", "model=läufe/mein lauf", "source=my pictures/größe 1.png"]) == 0
    assert Path("runs/predict/mein lauf-2/results.json").is_file()


def test_weights_that_are_not_finite_are_named(tiny: Any, run: Any, paint: Any, tmp_path: Path) -> None:
    model = tiny()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    model_file.save(model, tmp_path / "nan.safetensors", imgsz=32)
    status, _, err, _ = run(paint(tmp_path / "x.png"), model=tmp_path / "nan.safetensors")
    assert status == 2 and "not finite" in err and "Traceback" not in err


def published_weights(name: str, folder: Path) -> Path:
    """Local weights of a published classifier; torchvision's random ones where ../shared/data is absent."""
    path = WEIGHTS / f"{name}_imagenet.pth"
    if not path.is_file():
        torch.manual_seed(0)
        path = folder / f"{name}.pth"
        torch.save(getattr(torchvision.models, name)().state_dict(), path)
    return path


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2"])
def test_a_published_classifier_answers_as_torchvisions(
    name: str, run: Any, paint: Any, tmp_path: Path, no_network: list[str]
) -> None:
    weights = published_weights(name, tmp_path)
    picture = paint(tmp_path / "x.png", size=(300, 400))
    smooth = cv2.GaussianBlur(cv2.imread(str(picture)), (0, 0), 9)
    cv2.imwrite(str(picture), cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX))
    status, _, err, folder = run(picture, f"weights={weights}", model=name)
    assert status == 0, err
    answer = json.loads((folder / "results.json").read_text())["results"][0]["classification"]
    theirs = getattr(torchvision.models, name)()
    theirs.load_state_dict({k: v.float() for k, v in torch.load(weights, weights_only=True).items()})
    published = torchvision.models.get_model_weights(name).DEFAULT
    with torch.no_grad():
        logits = theirs.eval()(published.transforms()(Image.open(picture).convert("RGB"))[None])
    top = logits.softmax(1)[0].topk(1)
    assert answer["label"].split(" (")[0] == published.meta["categories"][int(top.indices)]
    assert answer["score"] == pytest.approx(float(top.values), abs=0.01)
    assert no_network == []


def test_a_real_photo_is_recognised(run: Any) -> None:
    for path in (PHOTO, WEIGHTS / "mobilenet_v2_imagenet.pth"):
        if not path.is_file():
            pytest.skip(f"needs {path}")
    status, out, _, _ = run(PHOTO, f"weights={WEIGHTS / 'mobilenet_v2_imagenet.pth'}", model="mobilenet_v2")
    assert status == 0 and out.startswith(f"{PHOTO}: Samoyed ")


def test_predicting_reaches_for_no_network_and_no_process(
    run: Any, paint: Any, tmp_path: Path, no_network: list[str]
) -> None:
    assert run(paint(tmp_path / "x.png"))[0] == 0
    assert no_network == []


def test_a_missing_published_weight_without_network_says_where_to_get_it(
    run: Any, paint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def unreachable(url: str, **_: Any) -> Any:
        asked.append(url)
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    status, _, err, folder = run(paint(tmp_path / "x.png"), model="resnet18")
    assert status == 2 and len(asked) == 1
    assert asked[0] in err and "give the file's path" in err and not folder.exists()


def test_several_tasks_are_drawn_and_written_one_by_one(
    run: Any, paint: Any, tiny: Any, tmp_path: Path
) -> None:
    first = tiny()
    backbone = first.backbone
    tasks = {
        "colour": first.tasks["classification"],
        "feel": Classifier(backbone, ClassMap(("cold", "warm")), head="pool"),
    }
    model_file.save(Model(backbone, tasks), tmp_path / "two.safetensors", imgsz=32)
    status, out, _, folder = run(paint(tmp_path / "x.png"), model=tmp_path / "two.safetensors")
    assert status == 0 and out.splitlines()[0].count(";") == 1
    record = json.loads((folder / "results.json").read_text())["results"][0]
    assert {"colour", "feel"} <= record.keys() and record["drawn"] == ["x-colour.png", "x-feel.png"]
    assert all((folder / name).is_file() for name in record["drawn"])
