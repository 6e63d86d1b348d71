"""Test-time augmentation: one view changes nothing, mirrored pictures get mirrored answers, neighbours none at all."""

from typing import Any

import numpy as np
import pytest
import torch

from retinue.backbones import build
from retinue.datasets.targets import ClassMap, DataError, Pictures, Sample, collate
from retinue.tasks.augmented import averaged_maps, dense_tasks, predict_augmented
from retinue.tasks.classification.classification import Classifier
from retinue.tasks.segmentation.encoder_decoder import EncoderDecoder
from retinue.tasks.task import Model

CLASSES = ClassMap(("sky", "road", "car"))


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    backbone = build("resnet18")
    settings: dict[str, Any] = {"levels": ["c1", "c2", "c3"], "widths": [16, 16]}
    model = Model(backbone, {"it": EncoderDecoder(backbone, CLASSES, **settings)}).eval()
    balance(model, on_canvas(picture(64, 96)))
    return model


def balance(model: Model, pictures: Pictures) -> None:
    """Make every class as likely as the others on average: a new last layer's biases decide alone, for one class."""
    task: Any = model.named_tasks["it"]
    with torch.no_grad():
        (logits,) = task.logits(model.backbone(pictures.pixels, task.levels))
        task.classifier[-1].bias -= logits.mean((0, 2, 3))


def picture(height: int, width: int, seed: int = 0) -> Sample:
    image = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return Sample(str(seed), image.repeat(8, 0).repeat(8, 1)[:height, :width].copy())


def on_canvas(*samples: Sample, canvas: tuple[int, int] | None = None) -> Pictures:
    return collate(samples, 0.4, canvas=canvas)[0]


def flipped(sample: Sample) -> Sample:
    return sample.with_(image=sample.image[:, ::-1].copy())


def averaged(model: Model, pictures: Pictures, flip: bool = False, scales: Any = (1.0,)) -> torch.Tensor:
    return averaged_maps(model.backbone, dense_tasks(model, ""), pictures, flip, scales)["it"]


def labels(model: Model, pictures: Pictures, **settings: Any) -> list[np.ndarray]:
    with torch.inference_mode():
        return [result.labels for result in predict_augmented(model, pictures, **settings)["it"]]


def test_one_view_is_the_plain_answer(model: Model) -> None:
    pictures = on_canvas(picture(60, 83))
    with torch.inference_mode():
        plain = model.predict(pictures)["it"][0].labels
        task = dense_tasks(model, "")["it"]
        assert torch.equal(
            averaged(model, pictures), task.maps(model.backbone(pictures.pixels, task.levels), pictures)
        )
    assert np.array_equal(labels(model, pictures, flip=False, scales=(1.0,))[0], plain)
    assert len(np.unique(plain)) > 1


@pytest.mark.parametrize("canvas", [None, (96, 128)])
def test_a_mirrored_picture_has_the_mirrored_answer(canvas: Any, model: Model) -> None:
    there, back = (on_canvas(sample, canvas=canvas) for sample in (picture(61, 85), flipped(picture(61, 85))))
    with torch.inference_mode():
        maps = averaged(model, there, flip=True)
        assert torch.equal(averaged(model, back, flip=True), maps.flip(-1))
    (answer,) = labels(model, there, flip=True, scales=(0.5, 1.0, 1.5))
    (mirrored,) = labels(model, back, flip=True, scales=(0.5, 1.0, 1.5))
    assert (answer == mirrored[:, ::-1]).mean() > 0.999
    assert answer.shape == (61, 85) and (answer != labels(model, there, flip=False, scales=(1.0,))[0]).any()


def test_neighbours_on_the_canvas_change_nothing(model: Model) -> None:
    pictures = on_canvas(picture(60, 80, 1), picture(72, 64, 2))
    together = labels(model, pictures, flip=True, scales=(1.0, 1.25))
    for i in range(2):
        alone = labels(model, pictures[i : i + 1], flip=True, scales=(1.0, 1.25))[0]
        assert np.array_equal(alone, together[i])


def test_the_mean_of_a_model_that_sees_colours_alone_is_its_answer() -> None:
    """A 1 x 1 network answers a picture of one colour alike from every view."""
    backbone = build("resnet18")
    task = EncoderDecoder(backbone, CLASSES, levels=["c1", "c2"], widths=[8], context=False)
    model = Model(backbone, {"it": task}).eval()
    grey = Sample("x", np.full((64, 64, 3), 90, np.uint8))
    with torch.inference_mode():
        one = averaged(model, on_canvas(grey)).softmax(1)
        many = averaged(model, on_canvas(grey), True, (0.75, 1.0, 1.5)).softmax(1)
    assert torch.allclose(one[..., 28:36, 28:36], many[..., 28:36, 28:36], atol=1e-5)


def test_a_task_that_is_not_dense_is_named() -> None:
    backbone = build("resnet18")
    classifier = Model(backbone, {"kind": Classifier(backbone, CLASSES)})
    with pytest.raises(
        DataError, match="flip, scales is for tasks that answer at every pixel, and kind does not"
    ):
        predict_augmented(classifier, on_canvas(picture(40, 40)), True, (1.0,))
