"""A classifier as a sliding window: its map is what it says of the crops, and prediction draws it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_trunks import SmallVGG

from retinue.backbones import build
from retinue.backbones.backbone import TAKEN, Backbone
from retinue.datasets.targets import ClassMap, DataError, Sample, collate
from retinue.tasks.classification import Classifier
from retinue.tasks.fused import fused_model
from retinue.tasks.segmentation.heat_map import HeatMap
from retinue.tasks.segmentation.sliding_window import ZOOM, heat_map, with_heat_maps
from retinue.tasks.sliding import as_convolutions, upper_layers
from retinue.tasks.task import Model

CLASSES = ClassMap(("ant", "bee", "cat"))


def classifier_on(backbone: Backbone, head: str = "linear") -> Model:
    torch.manual_seed(0)
    for parameter in backbone.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return Model(backbone, {"it": Classifier(backbone, CLASSES, head=head)}).eval()  # type: ignore[arg-type]


def logits(model: Model, pixels: torch.Tensor) -> torch.Tensor:
    top = model.named_tasks["it"].top  # type: ignore[attr-defined]
    return top(model.backbone(pixels, (top.level,)))


def unpadded(grid: int = 3) -> tuple[Model, int, int]:
    """A classifier without padding, the side of the pictures that give it its grid, and its stride."""
    return classifier_on(SmallVGG(grid, padding=0, blocks=2)), 4 * grid + 6, 4


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("lenet5", "linear"),
        ("lenet5", "mean_max"),
        ("lenet5", "pool"),
        ("resnet18", "mean_max"),
        ("mobilenet_v3_small", "linear"),
        ("squeezenet1_1", "linear"),
    ],
)
@torch.no_grad()
def test_a_picture_of_the_training_size_gives_the_classifier_s_own_logits(name: str, head: str) -> None:
    model, side = classifier_on(build(name), head), 32 if name == "lenet5" else 64
    pixels = torch.rand(2, 3, side, side)
    answer, expected = heat_map(model, pixels, side), logits(model, pixels)
    assert answer.shape == (2, 3, 1, 1)
    assert (answer[..., 0, 0] - expected).abs().max() <= 1e-5 * expected.std().clamp(min=1)


@torch.no_grad()
def test_a_published_top_slides_too() -> None:
    model = Model(
        backbone := build("squeezenet1_1", classes=3), {"it": Classifier(backbone, CLASSES, head="published")}
    )
    pixels = torch.rand(1, 3, 80, 64)
    answer = heat_map(model.eval(), pixels, 64)
    assert answer.shape == (1, 3, 2, 1)
    torch.testing.assert_close(
        heat_map(model, pixels[..., :64, :], 64)[..., 0, 0], logits(model, pixels[..., :64, :])
    )


@pytest.mark.parametrize("grid", [1, 3])
@torch.no_grad()
def test_without_padding_every_position_is_the_crop_s_own_answer(grid: int) -> None:
    model, side, stride = unpadded(grid)
    pixels = torch.rand(1, 3, side + 5 * stride, side + 3 * stride)
    answer = heat_map(model, pixels, side)
    assert answer.shape == (1, 3, 6, 4)
    for i in range(6):
        for j in range(4):
            crop = pixels[..., i * stride : i * stride + side, j * stride : j * stride + side]
            assert (answer[..., i, j] - logits(model, crop)).abs().max() <= 1e-5 * answer.std()


@torch.no_grad()
def test_a_grid_of_means_slides_by_dilation() -> None:
    """Trained on larger pictures, the classifier reads means over 2x2 cells: windows still answer as crops do."""
    model, side, stride = unpadded()[0], 4 * 6 + 6, 4
    pixels = torch.rand(1, 3, side + 2 * stride, side + stride)
    answer = heat_map(model, pixels, side)
    assert answer.shape == (1, 3, 3, 2)
    crop = pixels[..., 2 * stride :, stride:]
    assert (answer[..., 2, 1] - logits(model, crop)).abs().max() <= 1e-5 * answer.std()


@torch.no_grad()
def test_the_classic_slides_by_dilation_too() -> None:
    model = classifier_on(build("lenet5"))
    pixels = torch.rand(1, 3, 52 + 8, 52)
    answer = heat_map(model, pixels, 52)
    assert answer.shape == (1, 3, 3, 1)
    assert (answer[..., 2, 0] - logits(model, pixels[..., 8:, :])).abs().max() <= 1e-5 * answer.std()


@torch.no_grad()
def test_with_padding_inner_windows_are_near_the_crop_s_answer() -> None:
    """A crop's borders are zeros where the window sees its neighbours: within a third of the logits' spread here."""
    model = classifier_on(SmallVGG())
    pixels = torch.rand(1, 3, 320, 320)
    answer = heat_map(model, pixels, 224)
    assert answer.shape == (1, 3, 4, 4)
    spread = answer.std((0, 2, 3)).max() + answer.std(1).max()
    crop = logits(model, pixels[..., 32:256, 64:288])
    assert 0 < (answer[..., 1, 2] - crop).abs().max() <= spread / 3
    assert (answer[..., 0, 0] - logits(model, pixels[..., :224, :224])).abs().max() <= spread / 3


def test_pictures_that_the_grid_does_not_divide_are_named() -> None:
    model = classifier_on(SmallVGG())
    with pytest.raises(DataError, match="map of 8x8, which it stretches or shrinks to 7x7"):
        heat_map(model, torch.rand(1, 3, 256, 256), 256)


def test_convolutions_keep_the_size_where_they_are_padded_and_where_they_came_from() -> None:
    for grid in (1, 6, 7):
        top = SmallVGG(grid).chop()
        assert top is not None
        layers, found = upper_layers(top)
        made = torch.nn.Sequential(*as_convolutions(layers, found, padded=True)).eval()
        assert found == grid and made(torch.rand(2, 16, 5, 9)).shape == (2, 24, 5, 9)
        paths = [getattr(m, TAKEN) for m in made if isinstance(m, torch.nn.Conv2d)]
        assert paths == ["classifier.0", "classifier.3"]
        whole = torch.rand(1, 16, grid, grid)
        middle = (grid - 1) // 2
        torch.testing.assert_close(made(whole)[..., middle, middle], top.embed.eval()(whole))


def test_the_predicted_map_lies_in_the_file_s_frame() -> None:
    model, side, stride = unpadded()
    slid = with_heat_maps(model, "bee", side).eval()
    task = slid.named_tasks["heat_map"]
    image = np.random.default_rng(0).integers(0, 255, (90, 60, 3), np.uint8)
    sample = task.eval_transform(99)(Sample("a", image), np.random.default_rng(0), None)
    assert sample.image.shape[:2] == (ZOOM * side * 90 // 60, ZOOM * side)
    small = task.eval_transform(99)(Sample("b", image[:60]), np.random.default_rng(0), None)
    pictures, _ = collate([sample, small])
    first, second = slid.predict(pictures)["heat_map"]
    assert first.id == "a" and first.label == second.label == "bee"
    sizes = [((h - side) // stride + 1, (w - side) // stride + 1) for h, w in pictures.sizes]
    assert [each.probabilities.shape for each in (first, second)] == sizes
    scale = 60 / (ZOOM * side)
    np.testing.assert_allclose(
        first.grid, [scale * value for value in (side / 2, side / 2, stride, stride)], rtol=0.01
    )
    np.testing.assert_allclose(first.window, [scale * side] * 2, rtol=0.01)
    expected = heat_map(model, pictures.pixels[:1], side).softmax(1)[0, 1]
    np.testing.assert_allclose(first.probabilities, expected.detach().numpy(), atol=1e-6)


def test_top_is_the_class_of_the_whole_picture_and_fusing_changes_nothing() -> None:
    model, side, _ = unpadded()
    pictures, _ = collate([Sample("a", np.random.default_rng(1).integers(0, 255, (54, 54, 3), np.uint8))])
    whole = torch.nn.functional.interpolate(pictures.pixels, (side, side), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = CLASSES.names[int(logits(model, whole).argmax())]
    slid = with_heat_maps(model, "top", side).eval()
    (plain,) = slid.predict(pictures)["heat_map"]
    (fast,) = fused_model(slid).predict(pictures)["heat_map"]
    assert plain.label == fast.label == expected
    np.testing.assert_allclose(plain.probabilities, fast.probabilities, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "message"), [("bees", "did you mean bee"), ("3", "index below 3"), ("-1", "below 3")]
)
def test_a_class_that_is_none_is_named(asked: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        with_heat_maps(unpadded()[0], asked, 18)


def test_a_class_by_its_index() -> None:
    task = with_heat_maps(unpadded()[0], "2", 18).named_tasks["heat_map"]
    assert task.index == 2  # type: ignore[comparison-overlap]


def test_what_is_no_classifier_is_named() -> None:
    backbone = build("resnet18")
    both = {name: Classifier(backbone, CLASSES, head="pool") for name in ("one", "two")}
    with pytest.raises(DataError, match="for a classifier alone; this model answers one, two"):
        heat_map(Model(backbone, both), torch.rand(1, 3, 64, 64))


@pytest.mark.slow
@torch.no_grad()
def test_the_paper_s_network_gives_one_answer_at_its_own_size() -> None:
    model = classifier_on(build("vgg11"))
    pixels = torch.rand(1, 3, 224, 224)
    expected = logits(model, pixels)
    assert (heat_map(model, pixels)[..., 0, 0] - expected).abs().max() <= 1e-5 * expected.std()
    assert heat_map(model, torch.rand(1, 3, 288, 352)).shape == (1, 3, 3, 5)


@pytest.mark.skipif(
    not (Path(__file__).parents[4] / "shared/data/weights/mobilenet_v2_imagenet.pth").exists(),
    reason="needs shared/data/weights",
)
def test_a_zebra_is_found_where_it_stands() -> None:
    from retinue.datasets.pictures import read_picture

    shared = Path(__file__).parents[4] / "shared/data"
    backbone = build("mobilenet_v2", str(shared / "weights/mobilenet_v2_imagenet.pth"))
    model = Model(backbone, {"it": Classifier.published(backbone)}).eval()
    slid = with_heat_maps(model, "top", 224).eval()
    image = read_picture(shared / "imagenet_sample/n02391049_zebra.JPEG", 3).image
    sample = slid.named_tasks["heat_map"].eval_transform(224)(
        Sample("", image), np.random.default_rng(0), None
    )
    (found,) = slid.predict(collate([sample])[0])["heat_map"]
    assert isinstance(found, HeatMap) and found.label == "zebra"
    rows, columns = found.probabilities.shape
    assert found.probabilities[:, : columns // 2].mean() > 0.5
    assert found.probabilities[: rows // 3, -2:].mean() < 0.1
