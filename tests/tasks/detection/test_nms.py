import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops

from retinue.tasks.detection import nms
from retinue.tasks.detection.nms import batched_nms, best_of_each, nms_of_pictures

places = st.integers(0, 12)
rows = st.lists(st.tuples(places, places, places, places, st.integers(0, 4), st.integers(-1, 2)), max_size=40)


def scene(count, groups, seed, ties=False):
    """Boxes in clusters; with ties, on whole pixels and with few different scores."""
    g = torch.Generator().manual_seed(seed)
    centres, sides = torch.rand(60, 2, generator=g) * 600, torch.rand(60, 2, generator=g) * 150 + 5
    of = torch.randint(60, (count,), generator=g)
    centre = centres[of] + torch.randn(count, 2, generator=g) * sides[of] * 0.15
    side = sides[of] * (torch.randn(count, 2, generator=g) * 0.15).exp()
    boxes = torch.cat([centre - side / 2, centre + side / 2], 1).clamp_min(0)
    scores, labels = torch.rand(count, generator=g), torch.randint(groups, (count,), generator=g)
    return (boxes.round(), (scores * 20).round() / 20, labels) if ties else (boxes, scores, labels)


def one_by_one(boxes, scores, groups, threshold):
    """The definition: each group alone, then all by score."""
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    for group in groups.unique():
        own = (groups == group).nonzero()[:, 0]
        kept[own[ops.nms(boxes[own], scores[own], threshold)]] = True
    kept = kept.nonzero()[:, 0]
    return kept[scores[kept].sort(descending=True)[1]]


@settings(deadline=None, max_examples=200)
@given(
    rows, st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]), st.sampled_from([(1, 1), (2, 3), (5, 4), (256, 128)])
)
def test_blocks_keep_what_each_group_alone_keeps(rows, threshold, sides):
    """Whole pixels make ties of scores and overlaps of exactly the threshold; zero areas are among them."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    boxes = table[:, :4].reshape(-1, 2, 2).sort(1)[0].flatten(1)
    scores, groups = table[:, 4] / 4, table[:, 5].long()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nms, "FEW", 0)
        patch.setattr(nms, "ROWS", sides[0])
        patch.setattr(nms, "COLUMNS", sides[1])
        found = batched_nms(boxes, scores, groups, threshold)
    assert found.tolist() == one_by_one(boxes, scores, groups, threshold).tolist()


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
def test_an_overlap_of_exactly_the_threshold_is_torchvisions(
    threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a float32 the overlap may lie above the threshold or below it."""
    monkeypatch.setattr(nms, "FEW", 0)
    monkeypatch.setattr(nms, "ROWS", 1)
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 10 * threshold]])
    scores, groups = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    assert torch.equal(batched_nms(boxes, scores, groups, threshold), ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [1, 300, 1000, 1001, 3000])
@pytest.mark.parametrize(("groups", "threshold"), [(1, 0.7), (5, 0.7), (30, 0.5)])
def test_the_same_as_torchvision_in_the_same_order(count, groups, threshold, ties):
    for seed in range(3):
        boxes, scores, labels = scene(count, groups, seed, ties)
        theirs = ops.batched_nms(boxes, scores, labels, threshold)
        assert torch.equal(batched_nms(boxes, scores, labels, threshold), theirs)


def test_large_groups_suppress_across_blocks(monkeypatch):
    monkeypatch.setattr(nms, "FEW", 0)
    boxes, scores, labels = scene(2000, 1, 7)
    found = batched_nms(boxes, scores, labels, 0.5)
    assert 256 < len(found) < 1500
    assert torch.equal(found, one_by_one(boxes, scores, labels, 0.5))


def test_by_hand():
    """Half of the first box: at a threshold of a third, the second goes, if it is of the same group."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 5, 10, 15], [0, 0, 10, 4]])
    scores = torch.tensor([0.8, 0.9, 0.7])
    assert batched_nms(boxes, scores, torch.tensor([0, 0, 0]), 0.3).tolist() == [1, 2]
    assert batched_nms(boxes, scores, torch.tensor([0, 1, 0]), 0.3).tolist() == [1, 0]
    assert batched_nms(boxes, scores, torch.tensor([0, 1, 2]), 0.3).tolist() == [1, 0, 2]


@pytest.mark.parametrize("few", [0, 1000])
def test_none_and_bfloat16_and_not_finite(monkeypatch, few):
    monkeypatch.setattr(nms, "FEW", few)
    nothing = batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5)
    assert nothing.shape == (0,) and nothing.dtype == torch.int64
    boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 8], [4, 4, 8, 8]])
    same = torch.zeros(3, dtype=torch.int64)
    scores = torch.tensor([0.2, 0.3, 0.1])
    assert batched_nms(boxes.bfloat16(), scores, same, 0.5).tolist() == [1, 2]
    boxes[0, 0] = float("nan")
    assert sorted(batched_nms(boxes, scores, torch.arange(3), 0.5).tolist()) == [0, 1, 2]


@pytest.mark.parametrize("pairs", [0, 10**7])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("counts", [(0, 7, 0), (300, 1, 40), (1500, 900)])
def test_a_batch_is_its_pictures(monkeypatch, pairs, ties, counts):
    """All pairs at once, or picture by picture: what torchvision leaves of each, its roundings included."""
    monkeypatch.setattr(nms, "PAIRS", pairs)
    monkeypatch.setattr(nms, "FIRST", 2)
    parts = [
        scene(count, groups, seed, ties) for seed, (count, groups) in enumerate(zip(counts, (5, 90, 20)))
    ]
    parts = [(b * 3, s, label + 1) for b, s, label in parts]
    picture = torch.arange(len(parts)).repeat_interleave(torch.tensor(counts[: len(parts)]))
    boxes, scores, labels = (torch.cat(columns) for columns in zip(*parts))
    expected = [ops.batched_nms(*part, 0.5) for part in parts]
    starts = [sum(counts[:i]) for i in range(len(parts))]
    mixed = torch.arange(len(boxes))
    if not ties:
        mixed = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(0))
    for most in (5, 60, 10**4):
        found = mixed[nms_of_pictures(boxes[mixed], scores[mixed], labels[mixed], picture[mixed], 0.5, most)]
        whole = torch.cat([rows[:most] + start for rows, start in zip(expected, starts)])
        assert torch.equal(scores[found], scores[whole])
        assert ties or torch.equal(found, whole)  # of equal scores either may come first


def test_a_chain_of_overlaps_is_undone_link_by_link():
    """Each row overlaps only the next: the second goes, the third therefore stays, and so on."""
    x = torch.arange(40.0)
    boxes = torch.stack([x, torch.zeros(40), x + 2, torch.ones(40)], 1)
    same = torch.zeros(40, dtype=torch.int64)
    for most in (100, 3):
        found = nms_of_pictures(boxes, -x, same, same, 0.3, most)
        assert found.tolist() == list(range(0, 40, 2))[:most]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=30), st.integers(1, 5))
def test_the_best_of_each_group(rows, most):
    groups, scores = (torch.tensor([row[i] for row in rows], dtype=torch.int64) for i in range(2))
    expected = []
    for group in range(4):
        own = [i for i, row in enumerate(rows) if row[0] == group]
        expected += sorted(own, key=lambda i: -rows[i][1])[:most]
    assert best_of_each(scores.float(), groups, most).tolist() == expected
