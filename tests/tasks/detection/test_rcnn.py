"""R-CNN: what regions are examples of, fine-tuning, SVMs and boxes that are fitted, and pictures without anything."""

from typing import Any

import numpy as np
import pytest
import torch
from detectors import CLASSES, THREE, batch, descend, sample, small

from retinue.backbones import build
from retinue.datasets.targets import DataError, Pictures, Sample, Target
from retinue.tasks import model_file
from retinue.tasks.detection import rcnn
from retinue.tasks.detection.rcnn import RCNN, stands_for
from retinue.tasks.detection.warping import warp
from retinue.tasks.fused import fused_model
from retinue.tasks.task import Model


def own(model: Model) -> RCNN:
    task = model.named_tasks["it"]
    assert isinstance(task, RCNN)
    return task


def examples(model: Model, pictures: Pictures, targets: list[Target]) -> list[np.ndarray]:
    with torch.inference_mode():
        return [column.numpy() for column in own(model).examples({}, pictures, targets)]


def fitted(*samples: Sample, **settings: Any) -> tuple[Model, Pictures, list[Target]]:
    """A model on random weights, whose last layers are fitted to these pictures, and the pictures."""
    model = small(RCNN, **settings).eval()
    pictures, targets = batch(*samples)
    own(model).fit(*examples(model, pictures, targets))
    return model, pictures, targets


# Examples


def test_what_regions_stand_for_by_hand() -> None:
    target = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 90, 90], [5, 5, 5, 9]]),
        "box_labels": torch.tensor([2, 0, 1, 1]),
        "crowd": torch.tensor([False, False, True, False]),
    }
    proposals = torch.tensor(
        [[0.0, 0, 10, 8], [4, 0, 14, 10], [24, 0, 30, 10], [60, 60, 80, 80], [99, 99, 99, 99]]
    )
    truth, overlaps, matched, codes = stands_for(proposals, target, 3, 0.6)
    assert truth.tolist() == [2, 0, -1, -1, -1, -1, -1]  # no crowd and no sliver is an object
    expected = [[0, 0, 1], [1, 0, 0], [0, 0, 0.8], [0, 0, 6 / 14], [0.6, 0, 0], [1, 1, 1], [0, 0, 0]]
    torch.testing.assert_close(overlaps, torch.tensor(expected))
    assert matched.tolist() == [-1, -1, 2, -1, 0, -1, -1]
    # 10 x 8 about (5, 4) to 10 x 10 about (5, 5); 6 x 10 about (27, 5) to 10 x 10 about (25, 5)
    hand = torch.zeros(7, 4)
    hand[2] = torch.tensor([0, 1 / 8, 0, np.log(10 / 8)])
    hand[4] = torch.tensor([-2 / 6, 0, np.log(10 / 6), 0])
    torch.testing.assert_close(codes, hand)


def test_examples_are_the_features_of_warped_regions_true_boxes_first() -> None:
    model = small(RCNN).eval()
    pictures, targets = batch(sample(THREE), sample([], (40, 90)))
    features, truth, overlaps, matched, codes = examples(model, pictures, targets)
    assert features.dtype == np.float16 and features.shape == (3 + 12 + 9, 512)
    assert truth[:3].tolist() == targets[0]["box_labels"].tolist() and (truth[3:] == -1).all()
    assert overlaps.shape == (24, 3) and not overlaps[15:].any() and (matched[15:] == -1).all()
    assert (matched[3:6] == truth[:3]).all() and codes[3:6].any(1).all()
    boxes = torch.cat([targets[0]["boxes"], pictures.inputs["proposals"][0]])
    mean = torch.tensor(model.backbone.preprocessing.mean)
    squares = warp(pictures.pixels, pictures.sizes, boxes, torch.zeros(15, dtype=torch.int64), 32, 3, mean)
    with torch.no_grad():
        expected = model.backbone(squares)["c5"].mean((2, 3))
    np.testing.assert_allclose(features[:15], expected, atol=2e-3, rtol=2e-3)


def test_how_many_are_computed_at_once_makes_no_difference() -> None:
    model = small(RCNN).eval()
    pictures, _ = batch(sample(THREE), sample([]), sample(THREE[:1], (30, 50)))
    proposals = pictures.inputs["proposals"]
    with torch.no_grad():
        together, apart = (own(model).embed(pictures, proposals, count) for count in (1000, 7))
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


# Fine-tuning


def test_fine_tuning_descends_and_outgrows_what_was_fitted() -> None:
    model, pictures, targets = fitted(sample(THREE), sample([]))
    before = own(model).svms.weight.clone()
    assert own(model).fitted and before.any()
    first, *_, last = descend(model, pictures, targets, steps=6)
    assert last["class"] < first["class"]
    assert not own(model).fitted and torch.equal(own(model).svms.weight, before)


def test_nothing_but_a_crowd_is_a_loss_of_0_that_reaches_all_parameters() -> None:
    crowd = sample([[0, 0, 64, 64]], crowd=[True])
    assert descend(small(RCNN), *batch(crowd, crowd)) == [{"class": 0.0}] * 2


# Fitting


def test_objects_are_found_again_by_svms_on_random_features() -> None:
    boxes = [THREE, [[8, 8, 60, 30]], [[2, 30, 40, 60], [40, 2, 60, 40]], []]
    model, pictures, targets = fitted(*map(sample, boxes), svm_strength=1.0)
    metric = own(model).metric()
    metric.update(pictures.ids, model.predict(pictures)["it"], targets)
    assert metric.compute()["box/AP50"] > 0.9


def test_boxes_learn_to_move() -> None:
    """All proposals of objects are four pixels too far to the right."""
    boxes = [[[4, 4, 30, 40], [20, 10, 56, 50]], [[8, 8, 58, 30]], [[2, 30, 40, 60], [30, 2, 60, 40]]]
    samples = [sample(some) for some in boxes]
    for each in samples:
        each.inputs["proposals"][: len(each.targets["boxes"])] += [3.5, -0.5, 3.5, -0.5]
    model, pictures, targets = fitted(*samples, svm_strength=1.0)
    precision = []
    for _ in range(2):
        metric = own(model).metric()
        metric.update(pictures.ids, model.predict(pictures)["it"], targets)
        precision.append(metric.compute()["box/AP75"])
        torch.nn.init.zeros_(own(model).boxes.weight)
        torch.nn.init.zeros_(own(model).boxes.bias)
    assert precision[0] > 0.95 and precision[1] < 0.8


def test_scores_are_the_svms_with_the_margins_at_5_and_95_percent() -> None:
    model, pictures, _ = fitted(sample(THREE), sample([]))
    task = own(model)
    with torch.no_grad():
        vectors = task.embed(pictures, pictures.inputs["proposals"])
        values = task.svms(vectors)
        torch.testing.assert_close(task.score(vectors), (values * np.log(19)).sigmoid())
        task.svms.weight.zero_()
        for value, score in ((-1.0, 0.05), (0.0, 0.5), (1.0, 0.95)):
            task.svms.bias.fill_(value)
            torch.testing.assert_close(task.score(vectors[:1]), torch.full((1, 3), score))


def test_softmax_gives_the_scores_where_it_is_asked_for_and_before_the_fit() -> None:
    model, pictures, _ = fitted(sample(THREE), sample([]))
    softmax = own(model_file.answering(model, {"scores": "softmax"}))
    assert softmax.fitted and torch.equal(softmax.boxes.bias, own(model).boxes.bias)
    with torch.no_grad():
        vectors = softmax.embed(pictures, pictures.inputs["proposals"])
        for task in (softmax, own(small(RCNN))):
            torch.testing.assert_close(task.score(vectors), task.softmax(vectors).softmax(1)[:, 1:])
        assert not torch.allclose(own(model).score(vectors), softmax.score(vectors))


def test_without_any_proposal_of_an_object_boxes_stay() -> None:
    far = sample(THREE).with_(inputs={"proposals": np.array([[0, 0, 5, 5], [50, 50, 64, 64]], np.float32)})
    model, pictures, _ = fitted(far)
    assert own(model).fitted and not own(model).boxes.weight.any()
    assert len(model.predict(pictures)["it"]) == 1


# Prediction


def test_a_saved_and_a_fused_model_find_the_same(tmp_path: Any) -> None:
    model, pictures, _ = fitted(sample(THREE), sample([], (50, 64)), sample(THREE[1:]), score_threshold=0.01)
    model_file.save(model, tmp_path / "it.safetensors")
    again, _ = model_file.load(tmp_path / "it.safetensors")
    ours = model.predict(pictures)["it"]
    assert sum(map(len, ours)) > 3
    for one, other in zip(ours, again.predict(pictures)["it"]):
        for name in ("boxes", "scores", "labels"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
    for one, other in zip(ours, fused_model(model).predict(pictures)["it"]):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-3)


def test_pictures_without_proposals() -> None:
    model, pictures, targets = fitted(sample(THREE), sample([]))
    nothing = torch.zeros(0, 4)
    pictures.inputs["proposals"][1] = nothing
    one, none = model.predict(pictures)["it"]
    assert len(one) and len(none) == 0 and none.size == (64, 64)
    pictures.inputs["proposals"] = [nothing, nothing]
    assert [len(result) for result in model.predict(pictures)["it"]] == [0, 0]
    descend(model, pictures, targets)
    for target in targets:
        target |= {
            "boxes": nothing,
            "box_labels": torch.zeros(0, dtype=torch.int64),
            "crowd": torch.zeros(0).bool(),
        }
    columns = examples(model.eval(), pictures, targets)
    assert [len(column) for column in columns] == [0] * 5 and columns[0].dtype == np.float16
    with pytest.raises(DataError, match="there must be proposals"):
        own(model).fit(*columns)


def test_chunks_bound_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pictures, _ = fitted(sample(THREE), sample([]))
    seen = []
    real = warp
    monkeypatch.setattr(rcnn, "warp", lambda *given: seen.append(len(given[2])) or real(*given))
    pictures.inputs["proposals"] = [torch.tensor([[1.0, 2, 30, 40]]).expand(100, 4)] * 2
    model.predict(pictures)
    assert seen == [64, 64, 64, 8]


# Construction


@pytest.mark.parametrize("name", ["squeezenet1_1", "alexnet"])
def test_the_embedding_is_the_classifiers(name: str) -> None:
    torch.manual_seed(0)
    backbone = build(name)
    width, side = backbone.top().embedding, backbone.preprocessing.crop  # type: ignore[union-attr]
    model = Model(backbone, {"it": RCNN(backbone, CLASSES)}).eval()
    pictures, _ = batch(sample([], (64, 64)))
    with torch.no_grad():
        vectors = own(model).embed(pictures, [torch.tensor([[3.0, 3, 60, 50]])])
    assert own(model).side == side and vectors.shape == (1, width)


def test_a_backbone_without_a_classifier_gives_the_mean_of_its_map() -> None:
    backbone = build("resnet18")
    backbone.chop()
    task = RCNN(backbone, CLASSES, region_side=64)
    assert task.level == "c5" and task.softmax.in_features == 512
    assert task.embedding(torch.rand(2, 512, 3, 3)).shape == (2, 512)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"context": 16, "region_side": 32}, "context=16"),
        ({"region_side": 20, "context": 2}, "region_side=20"),
        ({"scores": "odds"}, "scores='odds': use one of svm, softmax"),
        ({"negative_iou": 1.5}, "negative_iou=1.5"),
        ({"svm_strength": 0.0}, "svm_strength=0.0"),
        ({"ridge": -1.0}, "ridge=-1.0"),
        ({"sampled": 0}, "sampled=0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        RCNN(build("alexnet"), CLASSES, **settings)


def test_pictures_that_come_without_the_input() -> None:
    model = small(RCNN)
    pictures, targets = batch(sample(THREE).with_(inputs={}))
    for ask in (lambda: model.eval().predict(pictures), lambda: model.train()(pictures, targets)):
        with pytest.raises(DataError, match=r"rcnn reads the input 'proposals'.*regions=FILE"):
            ask()
