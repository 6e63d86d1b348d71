"""How a model is asked: neighbours in a batch change no answer of a dense task, and what was asked is said as typed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retinue.backbones import build
from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import ClassMap, DataError, Pictures, Sample, collate
from retinue.tasks import model_file
from retinue.tasks.segmentation.encoder_decoder import EncoderDecoder
from retinue.tasks.task import Model
from retinue.tools.evaluate import evaluate
from retinue.tools.inference import ONE_PASS, Inference, own_canvases
from retinue.tools.options import Eval, Predict

SIZES = [(40, 56), (64, 32), (40, 56)]


@pytest.fixture(scope="module")
def model() -> Model:
    """Its context, the mean over the whole canvas, would make every picture depend on its neighbours."""
    torch.manual_seed(0)
    backbone = build("resnet18")
    settings: dict[str, Any] = {"levels": ["c1", "c2", "c3"], "widths": [16, 16], "context": True}
    task: Any = EncoderDecoder(backbone, ClassMap(("a", "b", "c")), **settings)
    model = Model(backbone, {"it": task}).eval()
    with (
        torch.no_grad()
    ):  # every class as likely as the others: a new last layer's biases decide alone, for one
        (logits,) = task.logits(backbone(pictures([(64, 64)]).pixels, task.levels))
        task.classifier[-1].bias -= logits.mean((0, 2, 3))
    return model


def pictures(sizes: list[tuple[int, int]], divisor: int = 1) -> Pictures:
    rng = np.random.default_rng(0)
    samples = [Sample(str(i), rng.integers(0, 256, (*size, 3), np.uint8)) for i, size in enumerate(sizes)]
    return collate(samples, 0.5, divisor)[0]


@pytest.mark.parametrize("asked", [ONE_PASS, Inference(flip=True, scales=(0.75, 1.0))])
def test_neighbours_change_no_answer(asked: Inference, model: Model) -> None:
    batch = pictures(SIZES)
    with torch.inference_mode():
        together = [result.labels for result in asked.batch(model, batch)["it"]]
        for i, (h, w) in enumerate(SIZES):
            alone = collate([Sample("x", batch.pixels[i, :, :h, :w].permute(1, 2, 0).numpy())], 0.5)[0]
            assert np.array_equal(asked.batch(model, alone)["it"][0].labels, together[i])
    assert [labels.shape for labels in together] == SIZES and len(np.unique(together[0])) > 1


@pytest.mark.parametrize("tile", [32, 100])
def test_tiles_are_of_the_picture_as_its_file_has_it(tile: int, model: Model) -> None:
    """Large enough, one tile is the one pass over the picture."""
    sample = Sample("x", np.random.default_rng(1).integers(0, 256, (40, 56, 3), np.uint8))
    with torch.inference_mode():
        (answer,) = Inference(tile=tile, overlap=8).batch(model, sample)["it"]
        (whole,) = ONE_PASS.batch(model, collate([sample], 0.5)[0])["it"]
    assert answer.id == "x" and answer.labels.shape == (40, 56)
    assert np.array_equal(answer.labels, whole.labels) == (tile == 100)


@pytest.mark.parametrize("divisor", [1, 32])
def test_own_canvases_are_those_of_pictures_alone(divisor: int) -> None:
    batch = pictures(SIZES, divisor)
    parts = own_canvases(batch, divisor)
    assert [part.ids for part in parts] == [["0"], ["1"], ["2"]]
    up = [tuple(-(-side // divisor) * divisor for side in size) for size in SIZES]
    assert [tuple(part.pixels.shape[-2:]) for part in parts] == up
    assert all(
        torch.equal(p.pixels[0], batch.pixels[i, :, :h, :w]) for i, (p, (h, w)) in enumerate(zip(parts, up))
    )
    same = pictures(SIZES[:1] * 2, divisor)
    assert own_canvases(same, divisor) == [same]


@pytest.mark.parametrize("kind", [Eval, Predict])
def test_what_is_asked_is_said_as_typed(kind: Any, model: Model) -> None:
    assert str(Inference.of(kind(), model)) == "" and Inference.of(kind(), model) == ONE_PASS
    asked = Inference.of(kind(flip=True, scales=[0.5, 1.0], tile=256, overlap=64), model)
    assert str(asked) == "tile=256 overlap=64 flip=true scales=0.5,1"
    assert str(Inference.of(kind(tile=256), model)) == "tile=256 overlap=64"
    for wrong in ([], [0.0], [-1.0], [float("inf")], [9.0]):
        with pytest.raises(DataError, match="scales="):
            Inference.of(kind(scales=wrong), model)


def test_evaluated_in_tiles_as_large_as_the_pictures_the_figures_are_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = build("resnet18")
    task: Any = EncoderDecoder(backbone, Scenes.semantic_classes, levels=["c1", "c2", "c3"], widths=[8, 8])
    task.classifier[-1].weight.data *= 100  # else its bias decides, for one class
    path = tmp_path / "it.safetensors"
    model_file.save(Model(backbone, {"it": task}).eval(), path, imgsz=64, batch=2)
    asked: dict[str, Any] = {"data": "scenes:4", "workers": 0, "plots": str(tmp_path), "device": "cpu"}
    whole = evaluate(str(path), **asked)
    assert 0 < whole["pixel_accuracy"] < 1
    np.testing.assert_equal(evaluate(str(path), tile=64, **asked), whole)
    assert evaluate(str(path), tile=32, overlap=0, **asked)["pixel_accuracy"] != whole["pixel_accuracy"]
