import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from retinue.backbones import build
from retinue.backbones.backbone import Level, Pixels
from retinue.datasets.targets import ClassMap, Pictures
from retinue.tasks import model_file
from retinue.tasks.task import Model, Task, mean_over_ranks

sys.path.insert(0, str(Path(__file__).parent))
import one_rank

sys.path.pop(0)


class Two(Pixels):
    """A backbone of two levels that counts its passes."""

    def __init__(self):
        super().__init__()
        self.levels = {"image": Level(3, 1), "half": Level(3, 2)}
        self.asked = []

    def forward(self, images, levels=None):
        self.asked.append(set(levels))
        maps = {"image": images, "half": images[..., ::2, ::2]}
        return {name: maps[name] for name in levels}


class Mean(Task):
    """Predicts the mean of a level."""

    needs = frozenset({"label"})
    headline = "none"

    def __init__(self, level="image", needs=("label",), shift=0.0):
        super().__init__()
        self.levels, self.needs, self.shift = (level,), frozenset(needs), shift
        self.scale = nn.Parameter(torch.ones(()))

    def prepare(self, pictures, targets):
        if not self.shift:
            return super().prepare(pictures, targets)
        return replace(pictures, pixels=pictures.pixels + self.shift), [{**t, "seen": True} for t in targets]

    def losses(self, features, pictures, targets):
        self.targets = targets
        return {"mean": self.scale * features[self.levels[0]].mean()}

    def predict(self, features, pictures):
        return features[self.levels[0]].mean((1, 2, 3)).tolist()


@pytest.fixture
def pictures():
    pixels = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4).float()
    return Pictures(pixels, [(4, 4)] * 2, [(4, 4)] * 2, torch.eye(2, 3).expand(2, 2, 3), ["a", "b"])


TARGETS = [{"label": torch.tensor(0)}, {"label": torch.tensor(1)}]


def test_one_pass_gives_every_task_the_levels_that_it_reads(pictures):
    model = Model(Two(), {"fine": Mean(), "coarse": Mean("half")})
    losses = model(pictures, TARGETS)
    assert model.backbone.asked == [{"image", "half"}]
    assert losses["fine/mean"].item() == 47.5
    assert losses["coarse/mean"].item() == pictures.pixels[..., ::2, ::2].mean().item()


def test_a_task_learns_only_from_batches_with_its_targets(pictures):
    model = Model(Two(), {"labels": Mean(), "depth": Mean("half", needs=("depth",))})
    assert set(model(pictures, TARGETS)) == {"labels/mean"}
    assert model.backbone.asked == [{"image"}]
    mixed = [TARGETS[0], {"depth": torch.zeros(4, 4)}]
    with pytest.raises(ValueError, match=r"targets \[\] suit no task.*labels.*depth"):
        model(pictures, mixed)
    with pytest.raises(ValueError, match="suit no task"):
        model(pictures, [])


def test_predict_keeps_order_and_takes_no_gradient(pictures):
    answers = Model(Two(), {"fine": Mean()}).eval().predict(pictures)
    assert answers == {"fine": [23.5, 71.5]}


def test_prepare_changes_a_training_batch_and_no_other(pictures):
    task = Mean(shift=1.0)
    model = Model(Two(), {"fine": task})
    assert model(pictures, TARGETS)["fine/mean"].item() == 48.5
    assert all(target["seen"] for target in task.targets) and "seen" not in TARGETS[0]
    assert model.eval()(pictures, TARGETS)["fine/mean"].item() == 47.5
    assert "seen" not in task.targets[0]


def test_prepare_must_not_change_what_other_tasks_learn_from(pictures):
    model = Model(Two(), {"mixing": Mean(shift=1.0), "other": Mean()})
    with pytest.raises(ValueError, match=r"'mixing' changes the pictures that \['other'\]"):
        model(pictures, TARGETS)


def test_gradients_flow_and_none_to_a_task_without_targets(pictures):
    model = Model(Two(), {"labels": Mean(), "depth": Mean(needs=("depth",))})
    sum(model(pictures, TARGETS).values()).backward()
    assert model.tasks["labels"].scale.grad.item() == 47.5 and model.tasks["depth"].scale.grad is None


def test_mean_over_ranks_in_one_process():
    each = torch.tensor([2.0, 4.0], requires_grad=True)
    assert mean_over_ranks(each.sum(), 4).item() == 1.5
    nothing = mean_over_ranks(each[:0].sum(), 0)
    nothing.backward()
    assert nothing.item() == 0 and each.grad.tolist() == [0, 0]


def test_two_processes_with_uneven_shares_give_the_gradient_of_one(tmp_path):
    command = [sys.executable, one_rank.__file__]
    store, output = str(tmp_path / "store"), str(tmp_path / "gradients.pt")
    ranks = [subprocess.Popen([*command, str(rank), store, output]) for rank in range(2)]
    assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
    model = one_rank.build()
    sum(model(*one_rank.batch(slice(0, 4))).values()).backward()
    expected, found = one_rank.gradients(model), torch.load(output, weights_only=True)
    assert found.keys() == expected.keys() and len(found) == 2
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


class Regions(Task):
    """Runs the backbone itself, on the upper half of the picture."""

    needs, headline, levels = frozenset({"label"}), "none", ("image",)
    classes, settings = None, {}

    def __init__(self, backbone=None, classes=None):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def attach(self, backbone):
        self.trunk = (backbone,)

    def predict(self, features, pictures):
        (backbone,) = self.trunk
        return (self.scale * backbone(pictures.pixels[:, :, :2])["c1"].mean((1, 2, 3))).tolist()


def test_a_task_that_keeps_the_backbone_is_saved_once_and_copies_have_their_own(
    pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(model_file, "name_of", lambda _: "detection.regions")
    monkeypatch.setattr(model_file, "find", lambda _: Regions)
    backbone = build("resnet18")
    model = Model(backbone, {"regions": Regions()}).eval()
    assert [n for n in model.state_dict() if not n.startswith("backbone.")] == ["tasks.regions.scale"]
    model_file.save(model, tmp_path / "it.safetensors", imgsz=32)
    again, _ = model_file.load(tmp_path / "it.safetensors")
    twin = copy.deepcopy(model)
    for other in (again, twin):
        assert other.named_tasks["regions"].trunk[0] is other.backbone is not backbone
        assert other.predict(pictures) == model.predict(pictures)
    with torch.no_grad():
        twin.backbone.conv1.weight.zero_()
    assert twin.predict(pictures) != model.predict(pictures) == again.predict(pictures)


def test_a_task_with_classes_must_say_what_depends_on_them():
    task = Mean()
    task.classes = ClassMap(("a",))
    with pytest.raises(NotImplementedError, match="Mean does not say"):
        task.forget_classes()
    task.classes = None
    task.forget_classes()
