"""Towers, the order of what is read from maps, and the candidates that go on."""

import torch
from torch import nn

from retinue.tasks.detection.dense_head import best_above, last_layer, rows, tower


def test_rows_are_position_by_position_and_anchor_by_anchor() -> None:
    """The four channels are two anchors of two values; each says its row, column and number."""
    y, x = torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")
    found = rows(torch.stack([100 * y + 10 * x + part for part in range(4)])[None], 2)
    assert found.shape == (1, 12, 2)
    assert found[0, :4].tolist() == [[0, 1], [2, 3], [10, 11], [12, 13]]
    assert found[0, 6].tolist() == [100, 101]


def test_the_best_of_each_picture_or_of_each_class() -> None:
    scores = torch.tensor([[[0.9, 0.1], [0.8, 0.7]], [[0.2, 0.3], [0.4, 0.05]]])
    best = best_above(scores, 0.15, 2)
    assert best.picture.tolist() == [0, 0, 1, 1] and best.place.tolist() == [0, 1, 1, 0]
    assert best.labels.tolist() == [0, 0, 0, 1]
    torch.testing.assert_close(best.scores, torch.tensor([0.9, 0.8, 0.4, 0.3]))
    each = best_above(scores, 0.15, 1, by_class=True)
    assert list(zip(each.picture.tolist(), each.labels.tolist(), each.place.tolist())) == [
        (0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0),
    ]  # fmt: skip
    assert len(best_above(scores, 0.9, 5).scores) == 0  # above, not at least


def test_groups_of_norms_have_two_channels_at_least() -> None:
    """So that a map of one position has a deviation."""
    for channels, groups in ((256, 32), (128, 32), (64, 32), (48, 8), (16, 8), (7, 1)):
        (block,) = tower(channels, 1, "group")
        (norm,) = (m for m in block.modules() if isinstance(m, nn.GroupNorm))
        assert norm.num_groups == groups
        block.train()(torch.rand(1, channels, 1, 1))
    assert tower(8, 0) == []


def test_priors() -> None:
    layer = last_layer(8, 6, 0.25)
    torch.testing.assert_close(layer.bias.sigmoid(), torch.full((6,), 0.25))  # type: ignore[union-attr]
    assert not last_layer(8, 6).bias.any()  # type: ignore[union-attr]
