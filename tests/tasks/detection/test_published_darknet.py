"""darknet's YOLO v3: its file's numbers, round trips, and the same outputs as OpenCV 4's own reader."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from retinue.backbones import build, darknet
from retinue.backbones.darknet_files import Header, read_values
from retinue.backbones.weights import WeightsError
from retinue.datasets.targets import ClassMap, DataError, Sample, collate
from retinue.tasks.detection import published_darknet
from retinue.tasks.detection.published_darknet import construct, description, read_into, write
from retinue.tasks.detection.yolov3 import YOLOv3, _priors, decode
from retinue.tasks.model_file import header
from retinue.tasks.task import Model
from retinue.tools.open_model import open_model

CLASSES = ClassMap(("cat", "dog"))


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trunk with the same maps and fewer, narrower layers."""
    stages = ((8, 1), (8, 0), (16, 2), (16, 1), (32, 1))
    monkeypatch.setattr(darknet, "STAGES", stages)
    monkeypatch.setattr(published_darknet, "STAGES", stages)


def lively(model: Model, side: int) -> Sample:
    """Give every layer values of about 1, as after training; returns the picture that was used."""
    small = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    picture = Sample("a", cv2.resize(small, (side, side)))
    (task,) = model.named_tasks.values()
    assert isinstance(task, YOLOv3)
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
        for predictor in task.predictors:
            nn.init.normal_(predictor.weight, 0, 0.05)  # type: ignore[arg-type]
            nn.init.normal_(predictor.bias, 0, 1)  # type: ignore[arg-type]
        pixels = collate([picture])[0].pixels
        task.maps(model.train().backbone(pixels, task.levels))
    model.eval()
    return picture


def test_the_published_file_has_as_many_numbers() -> None:
    """yolov3.weights has 248,007,048 bytes, 20 of them the header; figures of COCO's 80 classes."""
    with torch.device("meta"):
        model = construct(ClassMap(tuple(str(i) for i in range(80))))
    order = published_darknet._order(model)
    own = model.state_dict()
    assert 4 * sum(own[name].numel() for name in order) + 20 == 248_007_048
    assert set(order) == {key for key in own if not key.endswith("num_batches_tracked")}
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == published_darknet.published_weights().parameters


def test_its_description_is_darknets() -> None:
    """Number and kinds of yolov3.cfg's layers, the maps that are joined, the masks."""
    with torch.device("meta"):
        model = construct(ClassMap(tuple(str(i) for i in range(80))))
    (task,) = model.named_tasks.values()
    task.register_buffer("priors", _priors(task.settings), persistent=False)
    text = description(model, 608)
    layers = text.split("[")[2:]
    kinds = [layer.split("]")[0] for layer in layers]
    assert len(kinds) == 107 and kinds.count("convolutional") == 75 and kinds.count("shortcut") == 23
    assert [i for i, kind in enumerate(kinds) if kind == "yolo"] == [82, 94, 106]
    routes = [layer.split("layers=")[1].strip() for layer in layers if layer.startswith("route")]
    assert routes == ["-4", "-1, 61", "-4", "-1, 36"]
    assert [layer.split("mask=")[1].split()[0] for layer in layers if "mask" in layer] == [
        "6,7,8",
        "3,4,5",
        "0,1,2",
    ]
    assert "anchors=10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326" in text
    assert "width=608\nheight=608" in text and text.count("filters=255") == 3


@pytest.mark.usefixtures("shallow")
def test_round_trip_bit_for_bit(tmp_path: Path) -> None:
    model = construct(CLASSES, width=8)
    lively(model, 64)
    head = Header(0, 2, 5, 2**33)
    weights, cfg = write(model, tmp_path / "a.weights", 64, head)
    assert cfg == tmp_path / "a.cfg" and read_values(weights)[0] == head
    again = construct(CLASSES, width=8)
    assert read_into(again, weights) == head
    write(again, tmp_path / "b.weights", 64, head)
    assert (tmp_path / "b.weights").read_bytes() == weights.read_bytes()
    first, second = model.state_dict(), again.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first if not key.endswith("tracked"))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.cfg", "a.weights", "b.cfg", "b.weights"]


@pytest.mark.usefixtures("shallow")
def test_files_and_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    model = construct(CLASSES, width=8)
    weights, _ = write(model, tmp_path / "a.weights")
    with pytest.raises(WeightsError, match=r"a\.weights: holds .* or of another number of classes"):
        read_into(construct(ClassMap(("cat",)), width=8), weights)
    task = next(iter(model.named_tasks.values()))
    task.stages[0].five[0][0].weight.data[0] = torch.nan  # type: ignore[attr-defined]
    write(model, weights)
    before = construct(CLASSES, width=8)
    with pytest.raises(WeightsError, match="holds NaN"):
        read_into(before, weights)
    assert all(value.isfinite().all() for value in before.state_dict().values())
    trunk = build("resnet18")
    other = Model(trunk, {"it": YOLOv3(trunk, CLASSES, width=8)})
    with pytest.raises(DataError, match="yolov3 over darknet53; this model is another one"):
        write(other, weights)


@pytest.mark.usefixtures("shallow")
def test_it_is_opened_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = published_darknet.coco_classes()
    assert len(classes) == 80 and classes.ids[-1] == 90 and classes.names[0] == "person"
    model = construct(classes)
    weights, _ = write(model, tmp_path / "some.weights")
    opened, head, _ = open_model("yolov3", str(weights), "cpu")
    assert head["imgsz"] == 416 and head["backbone"]["weights"]["source"] == str(weights)
    assert not opened.training and opened.named_tasks["yolov3"].classes == classes
    assert header(opened)["tasks"]["yolov3"]["module"] == "detection.yolov3"
    assert all(torch.equal(value, opened.state_dict()[key]) for key, value in model.state_dict().items())
    facts = published_darknet.describe("yolov3")
    assert (
        facts["metric"] == "box/AP" and 0.3 < facts["score"] < 0.34 and facts["source"].endswith(".weights")
    )


@pytest.mark.skipif(not hasattr(cv2.dnn, "readNetFromDarknet"), reason=f"OpenCV {cv2.__version__} reads none")
@pytest.mark.parametrize("depth", ["shallow", pytest.param("published", marks=pytest.mark.slow)])
def test_opencv_reads_the_files_and_says_the_same(
    depth: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Before decoding and after it, to the rounding of so many layers."""
    side = 416 if depth == "published" else 96
    if depth == "shallow":
        request.getfixturevalue("shallow")
    model = construct(CLASSES, **({"width": 8} if depth == "shallow" else {}))
    picture = lively(model, side)
    weights, cfg = write(model, tmp_path / "a.weights", side)
    (task,) = model.named_tasks.values()
    assert isinstance(task, YOLOv3)
    pictures, _ = collate([picture])
    with torch.no_grad():
        features = model.backbone(pictures.pixels, task.levels)
        maps, (scored, cells) = task.maps(features), task.score(features, pictures)
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    ends = [name.removeprefix("yolo_") for name in net.getUnconnectedOutLayersNames()][::-1]
    blob = cv2.dnn.blobFromImage(picture.image, 1 / 255, (side, side))
    net.setInput(blob)
    for own, theirs in zip(maps, net.forward([f"conv_{int(end) - 1}" for end in ends]), strict=True):
        assert theirs.std() > 0.3
        np.testing.assert_allclose(own.numpy(), theirs, atol=2e-3, rtol=0)
    net.setInput(blob)
    theirs = np.concatenate(net.forward([f"yolo_{end}" for end in ends]))
    centre, sides = theirs[:, :2] * side, theirs[:, 2:4] * side
    boxes = decode(scored[0, :, :4], cells.places()).numpy()
    bounded = scored[0, :, 2:4].amax(1).numpy() < 4  # ours are kept under 62 times the anchor
    assert bounded.mean() > 0.9
    expected = np.concatenate([centre - sides / 2, centre + sides / 2], 1)
    off = np.abs(boxes - expected).max(1)
    assert (off <= 0.01 + 1e-3 * sides.max(1))[bounded].all()
    scores = (scored[0, :, 4:5].sigmoid() * scored[0, :, 5:].sigmoid()).numpy()
    said = theirs[:, 5:] > 0  # it leaves out what is under 0.2
    assert said.sum() > 100
    np.testing.assert_allclose(scores[said], theirs[:, 5:][said], atol=1e-3)
    assert scores[~said].max() < 0.201
