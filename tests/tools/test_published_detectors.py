"""Published detectors by name: predicted with, fine-tuned on other classes, judged, listed; from files and a server."""

import functools
import hashlib
import http.server
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import detection as theirs

from retinue.datasets.targets import DataError
from retinue.tasks import model_file, torchvision_weights
from retinue.tasks.detection import published
from retinue.tools import command
from retinue.tools.open_model import open_model
from retinue.tools.predict import predict

NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"


def pixels() -> np.ndarray:
    """Blurred blots of colour, 320 x 400: as large as the network would have it."""
    small = np.random.default_rng(3).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((400, 320), Image.Resampling.BILINEAR))


def tensor() -> torch.Tensor:
    return torch.from_numpy(pixels()).permute(2, 0, 1).float() / 255


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """torchvision's detector with random weights, the statistics of its own activations, and heads that find things."""
    torch.manual_seed(0)
    network = getattr(theirs, NAME)(weights=None, weights_backbone=None).eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    predictor, rpn = network.roi_heads.box_predictor, network.rpn.head
    for layer, deviation in ((predictor.cls_score, 0.3), (rpn.cls_logits, 0.3), (rpn.bbox_pred, 0.05)):
        nn.init.normal_(layer.weight, 0, deviation)
    with torch.no_grad():
        network([tensor()])
    for norm in norms:
        norm.eval()
    return network


@pytest.fixture(scope="module")
def weights(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "detector.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(pixels()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_predict_by_name_is_torchvisions_answer(
    network: nn.Module, weights: Path, photo: Path, tmp_path: Path, no_network: list[str]
) -> None:
    words = ["predict", NAME, str(photo), f"weights={weights}", f"project={tmp_path / 'runs'}", "conf=0.2"]
    assert command.main([*words, "device=cpu", "precision=fp32"]) == 0
    folder = tmp_path / "runs" / NAME
    assert (folder / "photo.png").is_file() and no_network == []
    (record,) = json.loads((folder / "results.json").read_text())["results"]
    found, records = record["faster_rcnn"], json.loads((folder / "predictions.json").read_text())
    with torch.no_grad():
        expected = {key: value.numpy() for key, value in network([tensor()])[0].items()}
    kept = expected["scores"] >= 0.2
    assert len(records) == len(kept) and len(found["boxes"]) == kept.sum() > 5
    np.testing.assert_allclose(found["boxes"], expected["boxes"][kept], atol=0.01)
    np.testing.assert_allclose(found["scores"], expected["scores"][kept], atol=1e-4)
    assert found["label_ids"] == expected["labels"][kept].tolist()
    names = theirs.FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.DEFAULT.meta["categories"]
    assert all(name in (names[id], f"unused {id}") for name, id in zip(found["labels"], found["label_ids"]))
    assert {r["category_id"] for r in records} == set(expected["labels"].tolist())


def test_the_published_file_is_fetched_once_and_checked(
    weights: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """With a server in the place of torchvision's."""
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
    file = tmp_path / f"site/{NAME}-{digest}.pth"
    file.parent.mkdir()
    file.write_bytes(weights.read_bytes())
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=file.parent)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/{file.name}"
        known = torchvision_weights.published_weights(NAME)
        (first, *_) = known.values()
        moved = {first.name: type(first)(**{**vars(first), "url": url, "sha256": digest})}
        monkeypatch.setattr(torchvision_weights, "published_weights", lambda name: moved)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
        for how in (None, "coco", "COCO_V1", url):
            _, header, _ = open_model(NAME, how, "cpu")
            assert header["imgsz"] == 320 and header["backbone"]["weights"]["source"] == url, header[
                "backbone"
            ]
        assert len(asked) == 1 and [p.name for p in (tmp_path / "hub/checkpoints").iterdir()] == [file.name]
    finally:
        server.shutdown()
        server.server_close()
    cached = tmp_path / "hub/checkpoints" / file.name
    cached.write_bytes(cached.read_bytes()[:-1] + b"x")
    assert command.main(["predict", NAME, str(photo), f"project={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert digest in said and "delete" in said and "Traceback" not in said


def test_fine_tuned_on_other_classes_with_one_option_and_judged(
    weights: Path, paint_boxes: Any, tmp_path: Path, capsys: Any
) -> None:
    pictures = [(60, 80, [(4, 6, 30, 34), (40, 10, 70, 50)]), (64, 64, []), (50, 70, [(10, 10, 40, 44)])]
    data = paint_boxes(tmp_path / "data", train=pictures, val=pictures[::2])
    words = [f"model={NAME}", f"weights={weights}", f"data={data}", f"project={tmp_path / 'runs'}"]
    small = ["imgsz=64", "epochs=1", "batch=2", "workers=0", "device=cpu", "warmup=0", "proposals=40,20"]
    assert command.main(["train", "faster_rcnn", *words, *small]) == 0
    said = capsys.readouterr().out
    assert "new last layers for other classes" in said
    run = tmp_path / "runs/faster_rcnn/mobilenet_v3_large"
    model, header, _ = open_model(str(run), None, "cpu")
    (task,) = model.named_tasks.values()
    assert task.classes is not None and task.classes.names == ("sphere", "thing")
    assert task.classes.ids == (3, 7) and header["imgsz"] == 64
    assert task.settings["anchor_sizes"] == [32, 64, 128, 256, 512]  # the published one's
    assert model.backbone.body.options["norm_eps"] == 1e-5  # type: ignore[union-attr, operator]
    assert command.main(["eval", str(run), f"data={data}", "workers=0", "json=-"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values == model_file.read_header(run / "weights/best.safetensors")["metrics"]
    (_, results), *_ = predict(str(run), data / "val", conf=0.0, device="cpu")
    assert set(results["faster_rcnn"].names) <= {"sphere", "thing"}


def test_a_published_detector_is_judged_on_data_with_its_names(
    weights: Path, paint_boxes: Any, tmp_path: Path, capsys: Any
) -> None:
    data = paint_boxes(tmp_path, val=[(60, 80, [(4, 6, 30, 34)])])
    file = data / "annotations/instances_val.json"
    words = ["eval", NAME, f"weights={weights}", f"data={data}", "workers=0", "device=cpu"]
    assert command.main(words) == 2
    assert "the classes ['sphere'] of split 'val' are not among ['person'" in capsys.readouterr().err
    file.write_text(file.read_text().replace('"thing"', '"bird"').replace('"sphere"', '"zebra"'))
    assert command.main([*words, "json=-"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert 0 <= values["box/AP"] <= 1 and "box/AP/zebra" in values


def test_names_near_by_are_meant_and_weights_of_another_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean fasterrcnn_resnet50_fpn"):
        open_model("fasterrcnn_resnet_50_fpn", None, "cpu")
    for name, source, message in (
        ("fasterrcnn_resnet50_fpn", str(weights), r"detector\.pth: these weights are of another network"),
        (NAME, "COCO_V3", r"no weights 'COCO_V3' for fasterrcnn.*did you mean COCO_V1"),
        (NAME, str(tmp_path / "none.pth"), "There is no such file, and the published weights are"),
    ):
        with pytest.raises(ValueError, match=message):
            open_model(name, source, "cpu")


def test_they_are_listed(capsys: Any) -> None:
    assert command.main(["list", "models"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in published.names()) and len(published.names()) == 12


def test_one_of_one_stage_is_fine_tuned_on_other_classes_too(
    paint_boxes: Any, tmp_path: Path, capsys: Any
) -> None:
    """Only the class head is new; the trunk's reduced tail, preprocessing and scales stay."""
    name = "ssdlite320_mobilenet_v3_large"
    torch.manual_seed(0)
    network = getattr(theirs, name)(weights=None, weights_backbone=None)
    torch.save(network.state_dict(), tmp_path / "ssdlite.pth")
    pictures = [(60, 80, [(4, 6, 30, 34), (40, 10, 70, 50)]), (64, 64, [])]
    data = paint_boxes(tmp_path / "data", train=pictures, val=pictures)
    words = [f"model={name}", f"weights={tmp_path / 'ssdlite.pth'}", f"data={data}", f"project={tmp_path}"]
    small = ["imgsz=64", "epochs=1", "batch=2", "workers=0", "device=cpu", "warmup=0", "name=it", "lr=0"]
    assert command.main(["train", "ssdlite", *words, *small]) == 0
    assert "new last layers for other classes" in capsys.readouterr().out
    model, _, _ = open_model(str(tmp_path / "ssdlite/it"), None, "cpu")
    (task,) = model.named_tasks.values()
    state = network.state_dict()
    assert model.backbone.preprocessing.mean == (0.5, 0.5, 0.5)
    assert model.backbone.options["reduced_tail"] is True
    box = "regression_head.module_list.2.1.weight"
    assert torch.equal(task.state_dict()["box_head.2.1.weight"], state[f"head.{box}"])
    assert task.state_dict()["class_head.2.1.weight"].shape[0] == 6 * (1 + 2)
