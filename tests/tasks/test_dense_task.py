"""From maps on a canvas to answers in the file's frame; what is given beside a picture moves with every view of it."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from retinue.backbones import build
from retinue.backbones.backbone import Features, Preprocessing
from retinue.datasets.targets import DataError, Pictures, Sample, collate
from retinue.datasets.transforms import HorizontalFlip, ResizeTo
from retinue.tasks import dense_task
from retinue.tasks.augmented import mirrored, predict_augmented, rescaled
from retinue.tasks.dense_task import DenseTask, canvas_of, in_file_frame
from retinue.tasks.task import Model
from retinue.tasks.tiling import predict_tiled
from retinue.tools.inference import Inference
from retinue.tools.options import Predict


def scaling(old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """The affine map of resizing the whole picture from (height, width) `old` to `new`."""
    return torch.tensor([[new[1] / old[1], 0, 0], [0, new[0] / old[0], 0]], dtype=torch.float64)


def file_frame(maps: torch.Tensor, to_file: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return torch.cat(list(in_file_frame(maps, to_file, size)), 2)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(2, 40)] * 2), st.tuples(*[st.integers(2, 60)] * 2))
def test_a_scaled_picture_is_interpolated_bilinearly(old: tuple[int, int], new: tuple[int, int]) -> None:
    maps = torch.randn(1, 3, *old)
    expected = interpolate(maps, size=new, mode="bilinear", align_corners=False)
    torch.testing.assert_close(file_frame(maps, scaling(old, new), new), expected, atol=2e-5, rtol=0)


def test_the_file_s_own_frame_is_left_to_the_bit() -> None:
    maps = torch.randn(1, 2, 5, 7)
    assert torch.equal(file_frame(maps, torch.eye(2, 3, dtype=torch.float64), (5, 7)), maps)


def test_a_shifted_and_a_mirrored_part_land_where_they_came_from() -> None:
    maps = torch.arange(12.0).reshape(1, 1, 3, 4)
    shift = torch.tensor([[1.0, 0, 2], [0, 1, 1]], dtype=torch.float64)
    placed = file_frame(maps, shift, (5, 7))
    assert torch.equal(placed[..., 1:4, 2:6], maps)
    mirror = torch.tensor([[-1.0, 0, 4], [0, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(file_frame(maps, mirror, (3, 4)), maps.flip(-1))


def test_stripes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(1, 3, 20, 30)
    whole = file_frame(maps, scaling((20, 30), (47, 61)), (47, 61))
    monkeypatch.setattr(dense_task, "STRIPE", 3 * 61 * 5)
    stripes = list(in_file_frame(maps, scaling((20, 30), (47, 61)), (47, 61)))
    assert [part.shape[2] for part in stripes] == [5] * 9 + [2]
    torch.testing.assert_close(torch.cat(stripes, 2), whole, atol=1e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(1, 30)] * 2), st.tuples(*[st.integers(1, 50)] * 2), st.floats(-9, 9))
def test_what_is_only_stretched_is_what_any_affine_map_gives(
    old: tuple[int, int], new: tuple[int, int], shift: float
) -> None:
    maps, to_file = torch.randn(1, 3, *old), scaling(old, new)
    to_file[1, 2] = shift
    back = torch.linalg.inv(torch.cat([to_file, torch.tensor([[0.0, 0, 1]], dtype=torch.float64)]))[:2]
    rows = torch.arange(new[0], dtype=torch.float64) + 0.5
    found = file_frame(maps, to_file, new)
    torch.testing.assert_close(found, dense_task._warp(maps, back, rows, new[1]), atol=5e-5, rtol=0)
    assert found.permute(0, 2, 3, 1).is_contiguous()  # in which a largest channel is soon found


class Filler(DenseTask):
    """Fills a hole with sigma; its result says what it was given."""

    levels = ("image",)
    inputs = frozenset({"hole", "sigma", "intrinsics"})

    def maps(self, features: Features, pictures: Pictures) -> Tensor:
        maps = pictures.pixels.clone()
        for own, hole, sigma in zip(maps, pictures.inputs["hole"], pictures.inputs["sigma"]):
            h, w = hole.shape[-2:]
            own[:, :h, :w] = torch.where(hole, sigma, own[:, :h, :w])
        assert features["image"].shape[-2:] == canvas_of(pictures) == maps.shape[-2:]
        return maps

    def answer_at(self, maps: Tensor) -> dict[str, Tensor]:
        return {"restored": maps}

    def result(self, id: str, values: dict[str, np.ndarray], inputs: Mapping[str, Tensor]) -> Any:
        return SimpleNamespace(id=id, restored=values["restored"], inputs=dict(inputs))


CAMERA = np.array([[90.0, 0, 31], [0, 80, 22], [0, 0, 1]], np.float32)


def damaged(height: int = 45, width: int = 70) -> Sample:
    rng = np.random.default_rng(0)
    hole = np.zeros((1, height, width), bool)
    hole[:, 5:25, 30:68] = True
    inputs = {"hole": hole, "sigma": np.float32(0.25), "intrinsics": CAMERA}
    return Sample("x", rng.integers(0, 256, (height, width, 3), np.uint8), inputs=inputs)


def filler(**attributes: Any) -> Model:
    backbone = build("pixels")
    task = Filler(backbone)
    for name, value in attributes.items():
        setattr(task, name, value)
    return Model(backbone, {"it": task}).eval()


def restored(sample: Sample) -> np.ndarray:
    """By hand."""
    return np.where(
        sample.inputs["hole"], np.float32(0.25), sample.image.transpose(2, 0, 1) / np.float32(255)
    )


def test_what_is_given_beside_a_picture_moves_with_its_views() -> None:
    """As datasets' own transforms move it."""
    sample, rng = damaged(), np.random.default_rng(0)
    on_canvas = collate([sample], canvas=(64, 80))[0]
    flip, resize = HorizontalFlip(1.0), ResizeTo(90, 140, antialias=False)
    large = rescaled(on_canvas, 2.0, Preprocessing())
    for seen, same in ((mirrored(on_canvas), flip(sample, rng)), (large, resize(sample, rng))):
        expected = collate([same])[0]
        (h, w) = seen.sizes[0]
        assert seen.sizes == expected.sizes
        torch.testing.assert_close(seen.pixels[..., :h, :w], expected.pixels, atol=0.01, rtol=0)
        assert torch.equal(seen.inputs["hole"][0], expected.inputs["hole"][0])
        torch.testing.assert_close(seen.inputs["intrinsics"][0], expected.inputs["intrinsics"][0])
        assert seen.inputs["sigma"] == expected.inputs["sigma"]


@torch.inference_mode()
def test_one_pass_mirror_images_and_tiles_fill_the_hole_alike() -> None:
    model, sample = filler(), damaged()
    pictures = collate([sample], canvas=(64, 80))[0]
    (plain,) = model.predict(pictures)["it"]
    assert np.array_equal(plain.restored, restored(sample))
    (flipped,) = predict_augmented(model, pictures, True, (1.0,))["it"]
    assert np.array_equal(flipped.restored, plain.restored)
    (scaled,) = predict_augmented(model, pictures, True, (1.0, 2.0))["it"]
    assert np.allclose(scaled.restored[:, 7:23, 32:66], 0.25)
    tiled = predict_tiled(model, sample, 32, 8)["it"]
    assert tiled.id == "x" and np.array_equal(tiled.restored, plain.restored)


def test_a_result_knows_the_camera_of_its_file() -> None:
    model, sample = filler(), damaged()
    resized = ResizeTo(90, 35)(sample, np.random.default_rng(0))
    assert not np.allclose(resized.inputs["intrinsics"], CAMERA)
    (found,) = model.predict(collate([resized])[0])["it"]
    for result in (found, predict_tiled(model, sample, 32, 8)["it"]):
        assert result.inputs.keys() == {"sigma", "intrinsics"} and result.inputs["sigma"] == 0.25
        torch.testing.assert_close(result.inputs["intrinsics"], torch.from_numpy(CAMERA))


@torch.inference_mode()
def test_a_task_of_one_size_is_neither_tiled_nor_scaled() -> None:
    model, sample = filler(one_size=True), damaged()
    pictures = collate([sample])[0]
    assert np.array_equal(
        predict_augmented(model, pictures, True, (1.0,))["it"][0].restored, restored(sample)
    )
    refused = "changes what the network is given, and it reads one size alone: leave it out"
    with pytest.raises(DataError, match=f"tile {refused}"):
        predict_tiled(model, sample, 32, 8)
    with pytest.raises(DataError, match=f"scales {refused}"):
        predict_augmented(model, pictures, False, (2.0,))
    for asked in ({"tile": 64}, {"scales": [0.5]}):
        with pytest.raises(DataError, match=refused):
            Inference.of(Predict(**asked), model)  # type: ignore[arg-type]
    assert Inference.of(Predict(flip=True), model) == Inference(flip=True)
