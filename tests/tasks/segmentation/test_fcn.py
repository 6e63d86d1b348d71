"""FCN-32s, -16s and -8s: frames that align, a start from the coarser network's answer, the classifier's own weights."""

from types import SimpleNamespace

import pytest
import torch
from canvases import pictures_of
from small_trunks import SmallTrunk, SmallVGG
from torch.nn import functional as F

from retinue.backbones import build
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks import model_file
from retinue.tasks.segmentation.fcn import FCN, Deconvolution, bilinear_kernel
from retinue.tasks.task import Model
from retinue.tools.new_model import build_model
from retinue.tools.options import Train

CLASSES = ClassMap(("road", "sky", "tree"))


def scoring(task: FCN) -> FCN:
    """Score layers are zero at first: here they answer."""
    torch.manual_seed(1)
    for layer in task.scores:
        torch.nn.init.normal_(layer.weight)  # type: ignore[arg-type]
    return task


# Upsampling


def test_the_bilinear_kernel_by_hand() -> None:
    side = torch.tensor([0.25, 0.75, 0.75, 0.25])
    torch.testing.assert_close(bilinear_kernel(2), side[:, None] * side)


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
@torch.no_grad()
def test_a_new_deconvolution_is_bilinear_interpolation(factor: int) -> None:
    x = torch.randn(2, 3, 5, 4)
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    made = Deconvolution(3, factor)(x)
    assert made.shape == (2, 3, 5 * factor, 4 * factor)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_paper_s_deconvolution_is_the_same_away_from_the_borders_where_it_fades() -> None:
    x, factor = torch.rand(1, 2, 6, 7) + 1, 8
    weight = torch.eye(2)[:, :, None, None] * bilinear_kernel(factor)
    plain = F.conv_transpose2d(x, weight, stride=factor, padding=factor // 2)
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    inner = (..., slice(factor // 2, -factor // 2), slice(factor // 2, -factor // 2))
    torch.testing.assert_close(plain[inner], expected[inner])
    assert (plain[..., 0, :] < 0.6 * expected[..., 0, :]).all()


@torch.no_grad()
def test_a_cell_answers_for_its_own_pixels() -> None:
    """On a canvas of whole cells, what one cell says is largest in the middle of its pixels."""
    backbone = SmallVGG()
    task = FCN(backbone, CLASSES, stride=32)
    logits = torch.zeros(1, 3, 4, 5)
    logits[0, 1, 2, 3] = 1
    enlarged = task._enlarged(logits, (128, 160))[0, 1]
    assert enlarged[2 * 32 : 3 * 32, 3 * 32 : 4 * 32].min() > 0.2
    y, x = torch.nonzero(enlarged == enlarged.max()).float().mean(0).add(0.5).tolist()
    assert (y, x) == (2.5 * 32, 3.5 * 32)


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_canvases_are_whole_cells_of_the_coarsest_map(stride: int) -> None:
    backbone = SmallTrunk()
    task = FCN(backbone, CLASSES, stride=stride)
    assert task.preprocessing.divisor == backbone.preprocessing.divisor == 32
    assert task.levels == ("c3", "c4", "c5")[(8, 16, 32).index(stride) :]


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("name", ["trunk", "vgg", pytest.param("alexnet", marks=pytest.mark.slow)])
@torch.no_grad()
def test_any_input_size(name: str, stride: int) -> None:
    backbone = {"trunk": SmallTrunk, "vgg": SmallVGG, "alexnet": lambda: build("alexnet")}[name]().eval()
    task = scoring(FCN(backbone, CLASSES, stride=stride)).eval()
    for size in ((64, 96), (97, 131)):
        images = torch.rand(1, 3, *size)
        answer = task.maps(backbone(images, task.levels), pictures_of(images))
        assert answer.shape == (1, 3, *size) and answer.isfinite().all() and answer.std() > 0


# Stages


def test_new_scores_are_zero_as_published() -> None:
    task = FCN(SmallTrunk(), CLASSES)
    assert len(task.scores) == 3 and len(task.upsampling) == 2
    assert not any(parameter.any() for parameter in task.scores.parameters())


def test_each_stage_goes_on_from_the_last(tmp_path: object) -> None:
    """FCN-16s keeps all of FCN-32s and begins with its answer, upsampled; FCN-8s so with FCN-16s."""
    path = f"{tmp_path}/one.safetensors"
    backbone = build("shufflenet_v2_x0_5")
    model = Model(backbone, {"fcn": scoring(FCN(backbone, CLASSES, stride=32))}).eval()
    images = torch.rand(2, 3, 96, 64)
    for stride in (16, 8):
        model_file.save(model, path, imgsz=64)  # type: ignore[arg-type]
        said: list[str] = []
        train_set = SimpleNamespace(classes=CLASSES)
        options = Train(task="fcn", data="", model=path)
        new = build_model(options, {"stride": stride}, {"train": train_set}, said.append).eval()
        before, after = model.state_dict(), new.state_dict()
        assert all(torch.equal(after[key], value) for key, value in before.items())
        fresh = sorted(key for key in after if key not in before)
        index = len(model.named_tasks["fcn"].scores)  # type: ignore[arg-type]
        assert [key.removeprefix("tasks.fcn.") for key in fresh] == [
            f"scores.{index}.bias",
            f"scores.{index}.weight",
            f"upsampling.{index - 1}.weight",
        ]
        assert f"its head kept but for new scores.{index}, upsampling.{index - 1}" in said[1]
        with torch.no_grad():
            old_logits, new_logits = (
                m.named_tasks["fcn"].logits(m.backbone(images))[0]  # type: ignore[attr-defined]
                for m in (model, new)
            )
        expected = F.interpolate(old_logits, scale_factor=2, mode="bilinear", align_corners=False)
        torch.testing.assert_close(new_logits, expected, atol=1e-5, rtol=0)
        scoring(new.named_tasks["fcn"])  # type: ignore[arg-type]
        model = new


# The classifier made convolutional


@torch.no_grad()
def test_fc6_and_fc7_keep_their_weights_and_their_place() -> None:
    vgg = SmallVGG().eval()
    fc6, fc7 = vgg.classifier[0].weight.clone(), vgg.classifier[3].weight.clone()
    whole = torch.rand(1, 3, 224, 224)
    expected = vgg.top().embed(vgg(whole)["c5"])
    task = FCN(vgg, CLASSES).eval()
    convolutions = [m for m in task.top if isinstance(m, torch.nn.Conv2d)]  # type: ignore[union-attr]
    assert torch.equal(convolutions[0].weight.flatten(1), fc6) and torch.equal(
        convolutions[1].weight.flatten(1), fc7
    )
    assert not hasattr(vgg, "classifier")
    torch.testing.assert_close(task.top(vgg(whole)["c5"])[..., 3, 3], expected)
    model = Model(vgg, {"fcn": task})
    assert set(task.top.parameters()) < model.pretrained_parameters()
    model.freeze("pretrained")
    assert not any(parameter.requires_grad for parameter in task.top.parameters())
    assert all(parameter.requires_grad for parameter in task.scores.parameters())


@pytest.mark.slow
def test_a_classifier_gets_back_what_was_made_convolutional(tmp_path: object) -> None:
    backbone = build("alexnet")
    fc6 = backbone.classifier[1].weight.detach().clone()  # type: ignore[index, union-attr]
    model_file.save(Model(backbone, {"fcn": FCN(backbone, CLASSES)}), f"{tmp_path}/a.safetensors", imgsz=64)  # type: ignore[arg-type]
    options = Train(task="classification", data="", model=f"{tmp_path}/a.safetensors")
    new = build_model(options, {}, {"train": SimpleNamespace(classes=CLASSES)}, lambda _: None)
    kept = new.named_tasks["classification"].top.embed[3].weight  # type: ignore[attr-defined, index]
    assert torch.equal(kept, fc6)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet18", {"stride": 4}, "stride=4: say 32, 16, 8"),
        ("squeezenet1_1", {}, "squeezenet1_1 has none of stride 32"),
        ("pixels", {"stride": 32}, "pixels has none of stride 32"),
    ],
)
def test_what_cannot_be_is_named(name: str, settings: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        FCN(build(name), CLASSES, **settings)
