"""What every segmentation network shares: truth on the canvas, losses, settings, and the answer's frame."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from retinue.backbones import build
from retinue.backbones.backbone import Backbone, Features
from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import IGNORE, ClassMap, DataError, Pictures, Sample, collate
from retinue.tasks.segmentation.segmenter import Segmenter, class_frequencies, truth_on_canvas

CLASSES = ClassMap(("red", "green", "blue"))


class Brightest(Segmenter):
    """The brightest channel's class: a network whose answer is known."""

    levels = ("image",)
    helped = True

    def __init__(self, backbone: Backbone, classes: ClassMap, **settings: Any) -> None:
        super().__init__(backbone, classes, **settings)
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def logits(self, features: Features) -> list[Tensor]:
        image = features["image"] * self.scale
        return [image, image.flip(1)] if self.training else [image]


def pictures_of(*images: np.ndarray) -> Pictures:
    return collate([Sample(str(i), image) for i, image in enumerate(images)])[0]


def task_with(**settings: Any) -> tuple[Brightest, Backbone]:
    backbone = build("pixels")
    return Brightest(backbone, CLASSES, **settings), backbone


def test_beside_a_picture_nothing_counts() -> None:
    truth = truth_on_canvas([{"semantic": torch.ones(2, 3, dtype=torch.int64)}], (4, 4))
    assert truth.dtype == torch.int64 and truth.shape == (1, 4, 4)
    assert (truth[0, :2, :3] == 1).all() and (truth == IGNORE).sum() == 10


def test_the_answer_is_the_largest_logit_in_the_file_s_frame() -> None:
    task, backbone = task_with()
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, :2, 0], image[:, 2:4, 1], image[:, 4:, 2] = 200, 200, 200
    small = image[:3]
    pictures = pictures_of(image, small)
    first, second = task.eval().predict(backbone(pictures.pixels), pictures)
    assert (first.labels == np.repeat([0, 1, 2], 2)).all() and first.labels.shape == (4, 6)
    assert first.labels.dtype == np.uint8 and second.labels.shape == (3, 6)
    pictures.to_file[0] *= 2
    pictures.file_sizes[0] = (8, 12)
    (enlarged, _) = task.predict(backbone(pictures.pixels), pictures)
    assert (enlarged.labels == np.repeat([0, 1, 2], 4)).all() and enlarged.labels.shape == (8, 12)


def test_logits_that_are_no_numbers_are_no_classes() -> None:
    task, backbone = task_with()
    pictures = pictures_of(np.full((4, 6, 3), 9, np.uint8))
    for value in (torch.nan, torch.inf):
        task.scale.data.fill_(value)
        with pytest.raises(DataError, match="not finite: look for non-finite weights"):
            task.eval().predict(backbone(pictures.pixels), pictures)


def test_losses_by_name_and_what_only_training_reads() -> None:
    task, backbone = task_with(dice=0.5, lovasz=0.5)
    pictures = pictures_of(np.random.default_rng(0).integers(0, 255, (4, 4, 3), np.uint8))
    targets = [{"semantic": torch.randint(0, 3, (4, 4))}]
    losses = task.train().losses(backbone(pictures.pixels), pictures, targets)
    assert set(losses) == {"pixel", "dice", "lovasz", "auxiliary"}
    assert set(task.eval().losses(backbone(pictures.pixels), pictures, targets)) == {
        "pixel",
        "dice",
        "lovasz",
    }


def test_a_batch_in_which_nothing_counts_teaches_nothing() -> None:
    task, backbone = task_with(dice=1.0, lovasz=1.0)
    pictures = pictures_of(np.full((4, 4, 3), 9, np.uint8))
    losses = task.train().losses(
        backbone(pictures.pixels), pictures, [{"semantic": torch.full((4, 4), IGNORE)}]
    )
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total == 0 and task.scale.grad == 0


def test_average_of_maps_is_that_of_probabilities() -> None:
    task, _ = task_with()
    a, b = torch.tensor([[8.0, 0.0]]).view(1, 2, 1, 1), torch.tensor([[0.0, 1.0]]).view(1, 2, 1, 1)
    expected = (a.softmax(1) + b.softmax(1)) / 2
    torch.testing.assert_close(task.averaged([a, b]).softmax(1), expected)


def test_frequencies_are_shares_of_the_pictures_that_show_the_class() -> None:
    class Two:
        classes = CLASSES

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Sample:
            labels = np.array([[[0, 0], [1, IGNORE]], [[0, 0], [0, 0]]][index])
            return Sample(str(index), np.zeros((2, 2, 3), np.uint8), {"semantic": labels})

    assert class_frequencies(Two(), 3) == [6 / 7, 1 / 3, 0.0]
    settings = Segmenter.resolve_settings({"class_weights": "median_frequency"}, Two())
    task = task_with(**settings)[0]
    assert task.weights is not None
    median = (6 / 7 + 1 / 3) / 2
    torch.testing.assert_close(task.weights, torch.tensor([median / (6 / 7), median * 3, 0.0]))


def test_scenes_are_learnt_by_their_semantic_classes() -> None:
    scenes = Scenes(2, 32)
    assert Segmenter.classes_of(scenes) == scenes.semantic_classes != scenes.classes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": [1.0]}, "1 class_weights for the 3 classes"),
        ({"class_weights": [1.0, -1.0, 2.0]}, "class_weights=1.0,-1.0,2.0: numbers from 0 on"),
        ({"class_weights": [1.0, float("nan"), 2.0]}, "class_weights=1.0,nan,2.0"),
        ({"class_weights": "balanced"}, "say median_frequency"),
        ({"class_weights": "median_frequency"}, "needs class_frequencies"),
        ({"hard": 0.0}, "hard=0.0"),
        ({"loss": "hinge"}, "loss=hinge"),
        ({"loss": "focal", "hard": 0.5}, "with loss=focal say hard=1"),
        ({"crop": 0}, "crop=0"),
        ({"scales": (2.0, 1.0)}, "scales="),
        ({"dice": -1.0}, "dice=-1.0"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        task_with(**settings)


def test_more_classes_than_a_mask_can_number() -> None:
    with pytest.raises(DataError, match="256 classes"):
        Brightest(build("pixels"), ClassMap(tuple(map(str, range(256)))))


def test_training_crops_are_squares_and_evaluation_sees_whole_pictures() -> None:
    task, _ = task_with(crop=24, scales=(0.5, 1.0))
    labels = np.random.default_rng(0).integers(0, 3, (40, 60)).astype(np.int64)
    sample = Sample("", np.zeros((40, 60, 3), np.uint8), {"semantic": labels})
    rng = np.random.default_rng(0)
    for _ in range(10):
        cut = task.train_transform(30)(sample, rng, None)
        assert cut.image.shape == (24, 24, 3) and cut.targets["semantic"].shape == (24, 24)
        assert set(np.unique(cut.targets["semantic"])) <= {0, 1, 2, IGNORE}
    assert task.eval_transform(20)(sample, rng, None).image.shape == (20, 30, 3)
