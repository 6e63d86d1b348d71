"""How a model is asked: neighbours in a batch change no answer of a dense task, and what was asked is said as typed."""

from typing import Any

import numpy as np
import pytest
import torch

from retinue.backbones import build
from retinue.datasets.targets import ClassMap, DataError, Pictures, Sample, collate
from retinue.tasks.segmentation.encoder_decoder import EncoderDecoder
from retinue.tasks.task import Model
from retinue.tools.inference import ONE_PASS, Inference, own_canvases
from retinue.tools.options import Eval, Predict

SIZES = [(40, 56), (64, 32), (40, 56)]


@pytest.fixture(scope="module")
def model() -> Model:
    """Its context, the mean over the whole canvas, would make every picture depend on its neighbours."""
    torch.manual_seed(0)
    backbone = build("resnet18")
    settings: dict[str, Any] = {"levels": ["c1", "c2", "c3"], "widths": [16, 16], "context": True}
    return Model(backbone, {"it": EncoderDecoder(backbone, ClassMap(("a", "b", "c")), **settings)}).eval()


def pictures(sizes: list[tuple[int, int]], divisor: int = 1) -> Pictures:
    rng = np.random.default_rng(0)
    samples = [Sample(str(i), rng.integers(0, 256, (*size, 3), np.uint8)) for i, size in enumerate(sizes)]
    return collate(samples, 0.5, divisor)[0]


@pytest.mark.parametrize(
    "asked", [ONE_PASS, Inference(flip=True, scales=(0.75, 1.0)), Inference(tile=32, overlap=8)]
)
def test_neighbours_change_no_answer(asked: Inference, model: Model) -> None:
    batch = pictures(SIZES)
    with torch.inference_mode():
        together = [result.labels for result in asked.batch(model, batch)["it"]]
        for i, (h, w) in enumerate(SIZES):
            alone = collate([Sample("x", batch.pixels[i, :, :h, :w].permute(1, 2, 0).numpy())], 0.5)[0]
            assert np.array_equal(asked.batch(model, alone)["it"][0].labels, together[i])
    assert [labels.shape for labels in together] == SIZES


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
