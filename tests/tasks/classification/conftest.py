import numpy as np
import pytest
import torch
from torch import nn

from retinue.backbones.backbone import Backbone, Level, Top
from retinue.datasets.targets import ClassMap, Pictures


class Auxiliary(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))

    def replace_last(self, classes):
        self.fc = nn.Linear(4, classes)


class Tiny(Backbone):
    """Two stages; a classifier with a hidden layer, and an auxiliary one on the inner map."""

    top_modules = ("fc", "hidden", "aux")

    def __init__(self, auxiliary=False, classes=7):
        super().__init__()
        self.levels = {"c1": Level(4, 2), "c2": Level(6, 4)}
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.hidden = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5), nn.ReLU())
        self.fc, self.aux = nn.Linear(5, classes), nn.ModuleDict()
        if auxiliary:
            self.aux["c1"] = Auxiliary(classes)

    def trunk(self):
        return {"c1": [self.first], "c2": [self.second]}

    def top(self):
        return Top("c2", 5, self.hidden, self.fc, dict(self.aux.items()))


@pytest.fixture
def tiny():
    """A builder of tiny backbones, by seed 0."""

    def build(**options):
        torch.manual_seed(0)
        return Tiny(**options)

    return build


@pytest.fixture
def batch():
    """A builder of (pictures, targets) from labels."""

    def build(labels, side=8):
        n = len(labels)
        pixels = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(3))
        sizes = [(side, side)] * n
        pictures = Pictures(
            pixels, sizes, sizes, torch.eye(2, 3).expand(n, 2, 3), [f"{i}.jpg" for i in range(n)]
        )
        return pictures, [{"label": torch.tensor(label)} for label in labels]

    return build


@pytest.fixture
def classes():
    """A builder of class maps of k classes."""
    return lambda k: ClassMap(tuple(f"class{i}" for i in range(k)), tuple(range(10, 10 + k)))


@pytest.fixture
def blobs():
    """A builder of clustered features (n, d) and labels (n,)."""

    def build(classes, each, d=12, seed=0, spread=1.0):
        rng = np.random.default_rng(seed)
        centres = np.random.default_rng(9).normal(size=(classes, d))
        labels = np.repeat(np.arange(classes), each)
        scale = 2.0 ** np.arange(d).clip(0, 3)  # standardisation has something to do
        return (centres[labels] + spread * rng.normal(size=(len(labels), d))) * scale, labels

    return build
