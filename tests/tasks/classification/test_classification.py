import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from retinue.backbones.backbone import Level, Pixels, Preprocessing
from retinue.datasets.targets import ClassMap, DataError, Sample, collate
from retinue.tasks.classification import Classifier
from retinue.tasks.task import Model


def logits(task, backbone, pictures):
    return task.top(backbone(pictures.pixels))


def test_a_new_linear_layer_on_the_embedding(tiny, batch, classes):
    backbone = tiny()
    hidden = backbone.hidden
    task = Classifier(backbone, classes(3))
    assert task.levels == ("c2",) and task.top.embed is hidden and not hasattr(backbone, "fc")
    features = backbone(batch([0, 1])[0].pixels)
    assert task.embed(features).shape == (2, 5) and task.top(features).shape == (2, 3)
    torch.testing.assert_close(task.top(features), task.top.last(task.embed(features)))


@pytest.mark.parametrize("chopped", [True, False])
def test_without_an_embedding_the_coarsest_level_is_pooled(tiny, batch, classes, chopped):
    backbone = tiny()
    if chopped:
        backbone.chop()
    task = Classifier(backbone, classes(3), head="linear" if chopped else "pool")
    features = backbone(batch([0, 1])[0].pixels)
    torch.testing.assert_close(task.embed(features), features["c2"].mean((2, 3)))
    assert not hasattr(backbone, "fc")


def test_of_equally_coarse_levels_the_deepest_is_pooled(tiny, classes):
    backbone = tiny()
    backbone.levels["c1"] = Level(4, 4)
    assert Classifier(backbone, classes(2), head="pool").levels == ("c2",)


def test_the_published_classifier_answers_as_published(tiny, batch):
    backbone = tiny()
    backbone.categories = ("crane", "ant", "crane", "bee", "tench", "fox", "dog")
    pictures, _ = batch([0, 1])
    expected = backbone.top()(backbone(pictures.pixels)).softmax(1)
    model = Model(backbone, {"classification": Classifier.published(backbone)}).eval()
    results = model.predict(pictures)["classification"]
    assert results[0].classes.names[:3] == ("crane (0)", "ant", "crane (2)")
    torch.testing.assert_close(torch.tensor(np.stack([r.probabilities for r in results])), expected.detach())
    assert [r.id for r in results] == ["0.jpg", "1.jpg"] and results[0].probabilities.dtype == np.float32


def test_a_published_head_for_other_classes_gets_a_new_last_layer(tiny, classes):
    task = Classifier(tiny(), classes(3), head="published")
    assert task.top.last.out_features == 3
    with pytest.raises(DataError, match="no published classes"):
        Classifier.published(tiny())
    backbone = tiny()
    backbone.chop()
    with pytest.raises(DataError, match="needs a backbone with its classifier"):
        Classifier(backbone, classes(3), head="published")
    with pytest.raises(DataError, match=r"dropout=0\.5"):
        Classifier(tiny(), classes(3), head="published", dropout=0.5)


def test_the_loss_is_that_of_torch(tiny, batch, classes):
    backbone = tiny()
    weights = [1.0, 2.0, 0.5]
    task = Classifier(backbone, classes(3), class_weights=weights, label_smoothing=0.1)
    pictures, targets = batch([0, 2, 1])
    losses = Model(backbone, {"classification": task})(pictures, targets)
    expected = F.cross_entropy(
        logits(task, backbone, pictures), torch.tensor([0, 2, 1]), torch.tensor(weights), label_smoothing=0.1
    )
    assert set(losses) == {"classification/ce"}
    torch.testing.assert_close(losses["classification/ce"], expected)


def test_auxiliary_classifiers_weigh_0_3_and_only_train(tiny, batch, classes):
    backbone = tiny(auxiliary=True)
    task = Classifier(backbone, classes(3))
    model = Model(backbone, {"classification": task})
    pictures, targets = batch([0, 2])
    losses = model(pictures, targets)
    inner = F.cross_entropy(task.top.auxiliary["c1"](backbone(pictures.pixels)["c1"]), torch.tensor([0, 2]))
    assert task.levels == ("c2", "c1") and task.top.auxiliary["c1"].fc.out_features == 3
    torch.testing.assert_close(losses["classification/aux"], 0.3 * inner)
    assert set(model.eval()(pictures, targets)) == {"classification/ce"}


def test_gradients_reach_every_parameter(tiny, batch, classes):
    backbone = tiny(auxiliary=True)
    model = Model(backbone, {"classification": Classifier(backbone, classes(3), dropout=0.1, mixup=0.4)})
    sum(model(*batch([0, 1, 2, 2])).values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_one_class_trains_and_predicts(tiny, batch, classes):
    backbone = tiny()
    model = Model(backbone, {"classification": Classifier(backbone, classes(1))})
    pictures, targets = batch([0, 0])
    assert model(pictures, targets)["classification/ce"].item() == 0
    assert [r.score for r in model.eval().predict(pictures)["classification"]] == [1.0, 1.0]


def test_weights_that_are_not_finite_are_noticed_at_prediction(tiny, batch, classes):
    backbone = tiny()
    task = Classifier(backbone, classes(2))
    nn.init.constant_(task.top.last.weight, math.nan)
    with pytest.raises(ValueError, match=r"0\.jpg: the probabilities are not finite"):
        Model(backbone, {"classification": task}).eval().predict(batch([0])[0])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"head": "pool", "dropout": 0.5, "class_weights": "balanced", "class_counts": [3, 1, 0]},
        {"head": "published", "label_smoothing": 0.1, "class_weights": [1.0, 2.0, 3.0]},
        {"mixup": 0.2, "crop_scale": (0.1, 0.9), "flip": False, "colour": 0.4},
    ],
)
def test_settings_construct_the_same_task_again(tiny, batch, classes, settings):
    backbone, again = tiny(auxiliary=True), tiny(auxiliary=True)
    task = Classifier(backbone, classes(3), **settings)
    assert {key: task.settings[key] for key in settings} == settings
    copy = Classifier(
        again, ClassMap.from_json(task.classes.to_json()), **json.loads(json.dumps(task.settings))
    )
    model, other = (Model(b, {"classification": t}).eval() for b, t in ((backbone, task), (again, copy)))
    other.load_state_dict(model.state_dict())
    pictures, targets = batch([0, 1, 1])
    assert torch.equal(logits(task, backbone, pictures), logits(copy, again, pictures))
    assert model(pictures, targets)["classification/ce"] == other(pictures, targets)["classification/ce"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "mlp"}, "unknown head 'mlp'"),
        ({"class_weights": [1.0]}, r"1 class_weights for the 2 classes \['class0', 'class1'\]"),
        ({"class_weights": "balanced"}, "needs class_counts"),
        ({"class_weights": "balanced", "class_counts": [1, 2, 3]}, "3 class_counts for the 2 classes"),
        ({"class_weights": "even"}, "unknown class_weights 'even'"),
    ],
)
def test_settings_that_do_not_fit_are_named(tiny, classes, settings, message):
    with pytest.raises(DataError, match=message):
        Classifier(tiny(), classes(2), **settings)


class Labelled:
    classes = ClassMap(("a", "b", "c"))

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return Sample(str(index), np.zeros((2, 2, 3), np.uint8), {"label": np.array([0, 2, 2][index])})


class Counted(Labelled):
    __getitem__ = None

    def class_counts(self):
        return np.array([4, 5, 6])


def test_balanced_weights_are_counted_in_the_data():
    asked = {"class_weights": "balanced", "mixup": 0.2}
    assert Classifier.resolve_settings(asked, Labelled()) == {**asked, "class_counts": [1, 0, 2]}
    assert Classifier.resolve_settings(asked, Counted()) == {**asked, "class_counts": [4, 5, 6]}
    assert json.dumps(Classifier.resolve_settings(asked, Counted()))
    for settings in ({}, {"class_weights": [1.0]}, {**asked, "class_counts": [1, 1, 1]}):
        assert Classifier.resolve_settings(settings, Counted()) == settings


# Mixup


def test_mixup_blends_pictures_and_labels_alike(tiny, batch, classes):
    task = Classifier(tiny(), classes(4), mixup=1.0)
    pictures, targets = batch([0, 1, 2, 3])
    before = pictures.pixels.clone()
    torch.manual_seed(1)
    mixed, mixed_targets = task.prepare(pictures, targets)
    weight = float(mixed_targets[0]["mix_weight"])
    assert 0 < weight < 1 and torch.equal(pictures.pixels, before) and "mix_label" not in targets[0]
    for i, target in enumerate(mixed_targets):
        other = int(target["mix_label"])
        expected = (1 - weight) * before[i] + weight * before[other]
        torch.testing.assert_close(mixed.pixels[i], expected)
        assert int(target["label"]) == i
    assert sorted(int(t["mix_label"]) for t in mixed_targets) == [0, 1, 2, 3]


def test_mixup_loss_is_the_mean_of_both_losses(tiny, batch, classes):
    backbone = tiny()
    task = Classifier(backbone, classes(3), mixup=1.0)
    pictures, targets = batch([0, 1, 2])
    torch.manual_seed(5)
    mixed, mixed_targets = task.prepare(pictures, targets)
    features = backbone(mixed.pixels)
    weight = mixed_targets[0]["mix_weight"]
    others = torch.stack([t["mix_label"] for t in mixed_targets])
    answers = task.top(features)
    expected = (1 - weight) * F.cross_entropy(answers, torch.arange(3)) + weight * F.cross_entropy(
        answers, others
    )
    torch.testing.assert_close(task.losses(features, mixed, mixed_targets)["ce"], expected)


def test_mixup_is_drawn_from_torchs_generator(tiny, batch, classes):
    task = Classifier(tiny(), classes(2), mixup=0.2)
    draws = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        draws.append(task.prepare(*batch([0, 1, 1]))[0].pixels)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_no_mixup_in_evaluation_for_one_picture_or_unasked(tiny, batch, classes):
    pictures, targets = batch([0, 1])
    for task in (Classifier(tiny(), classes(2), mixup=0.2).eval(), Classifier(tiny(), classes(2))):
        assert task.prepare(pictures, targets) == (pictures, targets)
    alone = batch([0])
    assert Classifier(tiny(), classes(2), mixup=0.2).prepare(*alone) == alone


# Recipes


def picture(height=40, width=60, channels=3, seed=0):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Sample("a.jpg", image, {"label": np.array(1)})


def test_training_pictures_are_squares_drawn_by_the_generator(tiny, classes):
    recipe = Classifier(tiny(), classes(2)).train_transform(16)
    one, same, other = (recipe(picture(), np.random.default_rng(seed), None) for seed in (1, 1, 2))
    assert one.image.shape == (16, 16, 3) and one.image.dtype == np.uint8 and int(one.targets["label"]) == 1
    assert (one.image == same.image).all() and (one.image != other.image).any()


def test_training_settings_are_obeyed(tiny, classes):
    task = Classifier(tiny(), classes(2), crop_scale=[1.0, 1.0], flip=False, colour=0.0)
    sample = picture(16, 16)
    drawn = {
        task.train_transform(16)(sample, np.random.default_rng(i), None).image.tobytes() for i in range(4)
    }
    task = Classifier(tiny(), classes(2), crop_scale=[1.0, 1.0], colour=0.0)
    flipped = {
        task.train_transform(16)(sample, np.random.default_rng(i), None).image.tobytes() for i in range(9)
    }
    assert len(drawn) <= len(flipped) and sample.image[:, ::-1].tobytes() in flipped
    assert sample.image[:, ::-1].tobytes() not in drawn


def test_grey_pictures_are_not_coloured(classes):
    recipe = Classifier(Pixels(1), classes(2), colour=0.4).train_transform(8)
    assert recipe(picture(channels=1), np.random.default_rng(0), None).image.shape == (8, 8, 1)


def test_evaluation_keeps_the_published_ratio_and_kernel(tiny, classes):
    backbone = tiny()
    recipe = Classifier(backbone, classes(2)).eval_transform(28)
    assert (recipe.resize.side, recipe.interpolation, recipe.antialias) == (32, "bilinear", True)
    assert recipe(picture(), np.random.default_rng(0), None).image.shape == (28, 28, 3)
    backbone = tiny()
    backbone.prepare_for(Preprocessing(resize=232, crop=224, interpolation="bicubic", antialias=False))
    recipe = Classifier(backbone, classes(2)).eval_transform(224)
    assert (recipe.resize.side, recipe.interpolation, recipe.antialias) == (232, "bicubic", False)


# Fitting, judging, drawing


def test_a_fitted_last_layer_predicts_and_is_saved_like_any(tiny, classes):
    backbone = tiny()
    task = Classifier(backbone, classes(2))
    model = Model(backbone, {"classification": task}).eval()
    samples = [Sample(str(i), np.full((8, 8, 3), 40 + 10 * i + 100 * (i % 2), np.uint8)) for i in range(8)]
    labels = np.arange(8) % 2
    pictures, _ = collate(samples)
    with torch.no_grad():
        features = task.embed(backbone(pictures.pixels)).numpy()
    keys = list(model.state_dict())
    task.fit(features, labels)
    assert list(model.state_dict()) == keys
    assert [r.index for r in model.predict(pictures)["classification"]] == labels.tolist()


def test_only_a_linear_layer_on_the_embedding_can_be_fitted(tiny, classes):
    task = Classifier(tiny(), classes(2))
    task.top.last = nn.Conv2d(5, 2, 1)
    with pytest.raises(DataError, match="cannot be fitted"):
        task.fit(np.zeros((2, 5)), np.array([0, 1]))


def test_metric_plots_and_sheets_come_from_the_task(tiny, batch, classes, tmp_path):
    backbone = tiny()
    task = Classifier(backbone, classes(3))
    pictures, targets = batch([0, 1, 2])
    results = Model(backbone, {"classification": task}).eval().predict(pictures)["classification"]
    metric = task.metric()
    metric.update(pictures.ids, results, targets)
    assert next(iter(metric.compute())) == task.headline and not task.smaller_is_better
    for name, draw in task.plots(metric).items():
        draw(str(tmp_path / name))
    assert {path.name for path in tmp_path.iterdir()} == {"confusion.png", "per_class.png"}
    truth, judged = task.draw_batch(pictures, targets), task.draw_batch(pictures, targets, results)
    assert truth.shape == judged.shape and (truth != judged).any()


DATA = Path(__file__).parents[3].parent / "shared/data"


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "hymenoptera_data").is_dir(), reason="shared/data/hymenoptera_data is absent")
@pytest.mark.parametrize("method", ["linear", "svm"])
def test_ants_and_bees_from_imagenet_features(method):
    """Frozen MobileNetV2, 120 training pictures: a linear layer is right for more than nine in ten."""
    from retinue.backbones import mobilenet_v2
    from retinue.datasets.image_folder import ImageFolder

    splits = [ImageFolder(DATA / "hymenoptera_data", split) for split in ("train", "val")]
    backbone = mobilenet_v2(str(DATA / "weights/mobilenet_v2_imagenet.pth"))
    task = Classifier(backbone, splits[0].classes)
    Model(backbone, {"classification": task}).eval()
    cached, recipe = [], task.eval_transform(224)
    for split in splits:
        rows = []
        for i in range(len(split)):
            pictures, _ = collate([recipe(split[i], np.random.default_rng(0), None)])
            with torch.no_grad():
                rows.append(task.embed(backbone(pictures.pixels, task.levels)).numpy())
        cached.append(np.concatenate(rows))
    task.fit(cached[0], splits[0].labels, method)
    with torch.no_grad():
        answers = task.top.last(torch.from_numpy(cached[1])).argmax(1).numpy()
    assert Counter(answers == splits[1].labels)[True] / len(splits[1]) > 0.92
