"""Tiles: cores partition the picture, tiles lie on the network's grid, and the answer is that of the whole picture."""

import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from retinue.backbones import build
from retinue.datasets.targets import ClassMap, DataError, Sample
from retinue.tasks.classification.classification import Classifier
from retinue.tasks.segmentation.encoder_decoder import EncoderDecoder
from retinue.tasks.task import Model
from retinue.tasks.tiling import Span, coarsest_stride, predict_tiled, spans, tiles

CLASSES = ClassMap(("sky", "road", "car"))


class Logits(EncoderDecoder):
    """A segmenter whose result is its logits."""

    def answer_at(self, maps: Tensor) -> dict[str, Tensor]:
        return {"logits": maps, "labels": maps.argmax(1)}

    def result(self, id: str, values: dict[str, np.ndarray], inputs: Mapping[str, Tensor]) -> Any:
        return values


@pytest.fixture(scope="module")
def model() -> Model:
    """Reads c1 to c3 of a ResNet-18: no pixel sees further than 80 others to each side."""
    torch.manual_seed(0)
    backbone = build("resnet18")
    settings: dict[str, Any] = {"levels": ["c1", "c2", "c3"], "widths": [16, 16], "context": False}
    return Model(backbone, {"it": Logits(backbone, CLASSES, **settings)}).eval()


def noise(*size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


@given(st.integers(1, 3000), st.integers(1, 600), st.integers(0, 400), st.integers(1, 64))
@example(length=1024, tile=512, overlap=128, stride=32)
def test_cores_partition_the_line_and_starts_lie_on_the_grid(
    length: int, tile: int, overlap: int, stride: int
) -> None:
    rounded = -(-tile // stride) * stride
    if length > rounded and rounded - overlap < stride:
        with pytest.raises(DataError, match=f"overlap={overlap}"):
            spans(length, tile, overlap, stride)
        return
    found = spans(length, tile, overlap, stride)
    assert [i for span in found for i in range(span.first, span.last)] == list(range(length))
    for span in found:
        assert span.start % stride == 0 and 0 <= span.start <= span.first < span.last <= span.stop <= length
        assert span.stop - span.start <= rounded
        line = np.arange(length)
        assert (line[span.seen][span.core] == line[span.kept]).all()
    for before, after in pairwise(found):
        assert before.stop - after.start >= overlap
        assert min(before.stop - before.last, after.first - after.start) >= overlap // 2


@given(st.tuples(st.integers(1, 300), st.integers(1, 300)), st.integers(40, 100), st.integers(0, 20))
def test_cores_partition_the_picture(size: tuple[int, int], tile: int, overlap: int) -> None:
    counts = np.zeros(size, int)
    for row, column in tiles(size, tile, overlap, 16):
        counts[row.kept, column.kept] += 1
    assert (counts == 1).all()


def test_a_line_by_hand() -> None:
    assert spans(100, 128, 32, 32) == [Span(0, 100, 0, 100)]
    assert spans(300, 120, 32, 32) == [
        Span(0, 128, 0, 112), Span(96, 224, 96 + 16, 208), Span(192, 300, 208, 300),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(264, 480), (136, 643), (117, 120)])
def test_tiles_equal_the_whole_picture_where_they_overlap_enough(size: tuple[int, int], model: Model) -> None:
    picture = noise(*size)
    with torch.inference_mode():
        whole = predict_tiled(model, Sample("x", picture), 4096, 0)["it"]
        tiled = predict_tiled(model, Sample("x", picture), 256, 176)["it"]
    assert whole["logits"].shape == tiled["logits"].shape == (len(CLASSES), *size)
    assert np.abs(whole["logits"] - tiled["logits"]).max() <= 1e-4
    assert (whole["labels"] == tiled["labels"]).mean() > 0.9999


def test_with_little_overlap_they_differ_near_the_inner_borders_alone(model: Model) -> None:
    picture = noise(128, 640)
    with torch.inference_mode():
        whole = predict_tiled(model, Sample("x", picture), 4096, 0)["it"]["logits"]
        tiled = predict_tiled(model, Sample("x", picture), 320, 0)["it"]["logits"]
    differ = np.flatnonzero(np.abs(whole - tiled).max((0, 1)) > 1e-4)
    assert len(differ) and 320 - 80 <= differ.min() < 320 <= differ.max() < 320 + 80


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pictures_of_any_type(dtype: Any, model: Model) -> None:
    picture = noise(40, 50)
    same = {"uint8": picture, "uint16": picture.astype(np.uint16) * 257, "float32": np.float32(picture / 255)}
    with torch.inference_mode():
        expected = predict_tiled(model, Sample("x", picture), 32, 8)["it"]["logits"]
        found = predict_tiled(model, Sample("x", same[np.dtype(dtype).name]), 32, 8)["it"]["logits"]
    assert np.abs(found - expected).max() < 1e-4


def test_the_grid_is_that_of_all_maps(model: Model) -> None:
    assert coarsest_stride(model) == 8
    backbone = build("resnet18")
    task = EncoderDecoder(backbone, CLASSES)
    task.inner_stride = 128
    assert coarsest_stride(Model(backbone, {"it": task})) == 128


def test_what_cannot_be_tiled_is_said(model: Model) -> None:
    with pytest.raises(DataError, match="overlap=40: too much for tile=40"):
        predict_tiled(model, Sample("x", noise(100, 100)), 40, 40)
    backbone = build("resnet18")
    classifier = Model(backbone, {"kind": Classifier(backbone, CLASSES)})
    with pytest.raises(DataError, match="tile is for tasks that answer at every pixel, and kind does not"):
        predict_tiled(classifier, Sample("x", noise(100, 100)), 64, 0)


MEASURE = """
import resource, sys
import numpy as np, torch
from retinue.backbones import build
from retinue.datasets.targets import ClassMap, Sample
from retinue.tasks.segmentation.encoder_decoder import EncoderDecoder
from retinue.tasks.task import Model
from retinue.tasks.tiling import predict_tiled

torch.set_num_threads(1)
backbone = build("mobilenet_v2")
task = EncoderDecoder(backbone, ClassMap(("a", "b")), levels=["c2", "c3"], widths=[8], depth=1, context=False)
model = Model(backbone, {"it": task}).eval()

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def run(side):
    picture = np.full((side, side, 3), 7, np.uint8)
    with torch.inference_mode():
        labels = predict_tiled(model, Sample("x", picture), 512, 128)["it"].labels
    return picture.nbytes + labels.nbytes

run(1024)
before = peak()
held = run(int(sys.argv[1]))
print(peak() - before - held)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_picture() -> None:
    """Beside the picture and its labels, 16 megapixels need no more than 4: one copy in float32 would be 192 MB."""
    for side in (2048, 4096):
        command = [sys.executable, "-c", MEASURE, str(side)]
        extra = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert extra < 48 * 2**20, side
