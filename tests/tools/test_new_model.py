"""A new run from a saved model: what is kept, what begins anew, what learns and how fast."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from retinue.backbones import build
from retinue.backbones.backbone import Backbone, Origin, Preprocessing
from retinue.backbones.fpn import FPN
from retinue.datasets.targets import ClassMap
from retinue.tasks import model_file
from retinue.tasks.classification import Classifier
from retinue.tasks.task import Model, Task
from retinue.tools import new_model
from retinue.tools.new_model import build_model, tune
from retinue.tools.options import Train
from retinue.tools.schedule import parameter_groups

COLOURS = ("blue", "red")
ORIGIN = Origin("https://example.org/a.pth", "CC-BY-4.0", 60.0)
OURS = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))

Start = Callable[..., tuple[Model, Model, str]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """start(backbone, names, saved settings, **settings): (the saved model, the new run's, what the log said)."""

    def start(
        backbone: Backbone,
        names: tuple[str, ...] = COLOURS,
        before: dict[str, Any] | None = None,
        **settings: Any,
    ) -> tuple[Model, Model, str]:
        backbone.prepare_for(OURS)
        backbone.weights = ORIGIN
        old = Model(backbone, {"classification": Classifier(backbone, ClassMap(COLOURS), **(before or {}))})
        model_file.save(old, tmp_path / "old.safetensors", imgsz=64)
        options = Train(task="classification", data="", model=str(tmp_path / "old.safetensors"))
        said: list[str] = []
        train_set = SimpleNamespace(
            classes=ClassMap(names), class_counts=lambda: torch.arange(1, len(names) + 1)
        )
        return old, build_model(options, settings, {"train": train_set}, said.append), "\n".join(said)

    return start


def same(old: Model, new: Model) -> set[str]:
    """Names of the equal tensors of two models."""
    state = new.state_dict()
    return {
        key
        for key, value in old.state_dict().items()
        if key in state and state[key].shape == value.shape and torch.equal(state[key], value)
    }


LAST = {"tasks.classification.top.last.weight", "tasks.classification.top.last.bias"}


@pytest.mark.parametrize("settings", [{}, {"mixup": 0.1}, {"dropout": 0.3}])
@pytest.mark.parametrize("name", ["resnet18", "alexnet"])
def test_the_head_stays_whatever_setting_of_training_changes(name: str, settings: Any, start: Start) -> None:
    old, new, said = start(build(name), before={"label_smoothing": 0.2}, **settings)
    task = new.named_tasks["classification"]
    assert task.settings["label_smoothing"] == 0.2
    assert all(task.settings[key] == value for key, value in settings.items())
    assert same(old, new) == set(old.state_dict()) == set(new.state_dict())
    assert "its head kept" in said and "new" not in said.splitlines()[1]
    assert new.backbone.preprocessing == old.backbone.preprocessing and new.backbone.weights == ORIGIN


@pytest.mark.parametrize("names", [("green", "red"), ("blue", "green", "red")])
@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1"])
def test_other_classes_get_new_last_layers_and_nothing_else(
    name: str, names: tuple[str, ...], start: Start
) -> None:
    old, new, said = start(build(name), names)
    assert set(old.state_dict()) - same(old, new) == LAST
    assert len(new.named_tasks["classification"].top.last.bias) == len(names)
    assert "new last layers for other classes" in said


def test_a_head_of_other_shape_is_new_and_named(start: Start) -> None:
    old, new, said = start(build("resnet18"), head="mean_max")
    assert set(old.state_dict()) - same(old, new) == LAST
    assert "new top.last" in said


def test_the_backbones_options_hold(start: Start) -> None:
    pyramid = FPN(build("resnet50", replace_stride_with_dilation=[False, False, True]), channels=16)
    old, new, _ = start(pyramid)
    assert isinstance(new.backbone, FPN) and new.backbone.options == pyramid.options
    assert new.backbone.levels == pyramid.levels and new.backbone.levels["c5"].stride == 16
    assert same(old, new) == set(old.state_dict())


def test_counts_of_the_old_pictures_are_not_taken_over(start: Start) -> None:
    before = {"class_weights": "balanced", "class_counts": [7, 9]}
    _, new, _ = start(build("lenet5"), ("blue", "green", "red"), before)
    assert new.named_tasks["classification"].settings["class_counts"] == [1, 2, 3]


class Other(Task):
    """Another task, which takes fc6, fc7 and the last stage over."""

    needs, headline = frozenset({"label"}), "top1"

    def __init__(self, backbone: Backbone, classes: ClassMap) -> None:
        super().__init__()
        self.classes, self.settings = classes, {}
        top = backbone.chop()
        assert top is not None
        self.upper = top.embed
        self.stage = backbone.cut("c5")
        self.levels = (list(backbone.levels)[-1],)
        self.last = nn.Linear(2, len(classes))


def test_another_task_gets_what_the_old_one_had_taken_over(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_model, "find", lambda _: Other)
    old, new, said = start(build("alexnet"))
    fc = [m for m in old.tasks["classification"].top.embed if isinstance(m, nn.Linear)]
    ours = [m for m in new.tasks["classification"].upper if isinstance(m, nn.Linear)]
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(fc, ours, strict=True))
    assert "a new head" in said and "without its classification" in said


# What learns, and how fast


def learning(model: Model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def classifier(backbone: Backbone, **settings: Any) -> Model:
    return Model(backbone, {"classification": Classifier(backbone, ClassMap(COLOURS), **settings)})


def rates(model: Model) -> dict[str, float]:
    """Learning rate by name, for rates of 1 (heads) and 0.1 (backbone)."""
    by_parameter = {
        p: group["lr"] for group in parameter_groups(model, 1.0, 0.1, 0.0) for p in group["params"]
    }
    return {name: by_parameter[p] for name, p in model.named_parameters() if p in by_parameter}


def test_fc6_and_fc7_are_frozen_and_learn_with_the_trunk() -> None:
    model = classifier(build("alexnet"))
    assert {name for name, rate in rates(model).items() if rate == 1.0} == LAST
    tune(model, "head", False)
    assert learning(model) == LAST
    dropouts = [m for m in model.train().modules() if isinstance(m, nn.Dropout)]
    assert len(dropouts) == 2 and not any(m.training for m in dropouts)
    tune(model, "1", False)
    assert {"tasks.classification.top.embed.3.weight"} < learning(model)
    assert not any(name.startswith("backbone.features.0.") for name in learning(model))
    tune(model, "all", False)
    assert learning(model) == {name for name, _ in model.named_parameters()}
    assert all(m.training for m in model.modules())


def test_a_new_pyramid_learns_with_the_head() -> None:
    model = classifier(FPN(build("resnet18"), ("c5",), channels=8), head="pool")
    own = {n for n, _ in model.named_parameters() if not n.startswith("backbone.body.")}
    assert {name for name, rate in rates(model).items() if rate == 1.0} == own
    tune(model, "head", True)
    assert learning(model) == own and own > LAST


def test_what_no_task_reads_does_not_learn() -> None:
    model = classifier(FPN(build("resnet18"), channels=8), head="pool")  # reads p5 alone
    tune(model, "all", False)
    unread = {name for name, _ in model.named_parameters()} - learning(model)
    assert unread == {
        f"backbone.{part}.{i}.0.{kind}"
        for part in ("inner_blocks", "layer_blocks")
        for i in (0, 1, 2)
        for kind in ("weight", "bias")
    }
    pixels = torch.rand(2, 3, 64, 64)
    model.backbone(pixels, model.tasks["classification"].levels)["p5"].sum().backward()
    assert all(p.grad is not None for p in model.backbone.parameters() if p.requires_grad)


def test_res5_keeps_the_backbones_norms_and_rate() -> None:
    class C4(Other):
        def __init__(self, backbone: Backbone) -> None:
            super().__init__(backbone, ClassMap(COLOURS))

    backbone = build("resnet18")
    model = Model(backbone, {"c4": C4(backbone)})
    assert {name for name, rate in rates(model).items() if rate == 1.0} == {
        "tasks.c4.last.weight",
        "tasks.c4.last.bias",
    }
    tune(model, "all", True)
    norms = [m for m in model.train().tasks.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 5 and not any(m.training or m.weight.requires_grad for m in norms)
    assert model.tasks["c4"].stage[0][0].conv1.weight.requires_grad
    tune(model, "head", False)
    assert learning(model) == {"tasks.c4.last.weight", "tasks.c4.last.bias"}
    assert not any(
        m.training for m in model.train().tasks["c4"].stage.modules() if m is not model.tasks["c4"].stage
    )


def test_replaced_layers_of_auxiliary_classifiers_are_new() -> None:
    model = classifier(build("googlenet"))
    tune(model, "head", False)
    aux = {
        f"tasks.classification.top.auxiliary.inception4{x}.fc2.{p}" for x in "ad" for p in ("weight", "bias")
    }
    assert learning(model) == LAST | aux


def test_a_classifier_that_no_weights_were_loaded_into_is_new(tmp_path: Path) -> None:
    state = {k: v for k, v in build("alexnet").state_dict().items() if k.startswith("features.")}
    torch.save(state, tmp_path / "features.pth")
    model = classifier(build("alexnet", str(tmp_path / "features.pth")))
    again = model_file.construct(model_file.header(model))  # what a resumed run does
    for one in (model, again):
        tune(one, "head", False)
        assert learning(one) == {n for n, _ in one.named_parameters() if n.startswith("tasks.")}
