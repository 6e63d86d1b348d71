"""SimOTA: small cases by hand, and the published procedure written out picture by picture and box by box."""

import pytest
import torch
from detectors import sample
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from retinue.datasets.targets import collate
from retinue.tasks.detection.decoupled_head import Cells, cells_of
from retinue.tasks.detection.matching import BELOW
from retinue.tasks.detection.simota import Truth, class_cost, match_cheapest, padded_truth, simota


def test_rows_take_their_cheapest_columns() -> None:
    """Overlaps of 0.9 + 0.8 + 0.4 make two; 0.3 makes one at least."""
    overlap = torch.tensor([[[0.9, 0.8, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 0.3, 0.0]]])
    cost = torch.tensor([[[5.0, 1.0, 2.0, 9.0, 8.0], [9.0, 9.0, 9.0, 4.0, 3.0]]])
    assert match_cheapest(cost, overlap).tolist() == [[BELOW, 0, 0, BELOW, 1]]


def test_a_column_that_two_rows_take_goes_to_the_one_that_it_costs_least() -> None:
    overlap = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    assert match_cheapest(torch.tensor([[[2.0, 9.0], [1.0, 9.0]]]), overlap).tolist() == [[1, BELOW]]


def test_what_is_impossible_is_not_taken() -> None:
    inf = torch.inf
    overlap = torch.full((1, 2, 3), 1.0)
    cost = torch.tensor([[[1.0, inf, inf], [inf, inf, inf]]])
    assert match_cheapest(cost, overlap).tolist() == [[0, BELOW, BELOW]]


def test_the_cost_of_a_class_is_the_cross_entropy_of_all_classes() -> None:
    torch.manual_seed(0)
    logits, objectness = torch.randn(2, 7, 5) * 4, torch.randn(2, 7) * 4
    labels = torch.tensor([[0, 4, 2], [1, 1, 3]])
    probability = (logits.sigmoid() * objectness.sigmoid()[..., None]).sqrt()
    wanted = F.one_hot(labels, 5).float()[:, :, None].expand(-1, -1, 7, -1)
    given = probability[:, None].expand(-1, 3, -1, -1)
    expected = F.binary_cross_entropy(given, wanted, reduction="none").sum(3)
    torch.testing.assert_close(class_cost(logits, objectness, labels), expected, rtol=1e-4, atol=1e-4)
    sure = class_cost(torch.full((1, 1, 5), 1e4), torch.full((1, 1), 1e4), labels[:1])
    assert sure.isfinite().all() and sure.max() == 400  # four wrong classes at -log 0


CELLS = cells_of(((8, 8, 8), (4, 4, 16), (2, 2, 32)), "cpu")


def reference(
    boxes: Tensor, logits: Tensor, objectness: Tensor, cells: Cells, truth: Tensor, labels: Tensor
) -> Tensor:
    """One picture: boxes (a, 4), truth (g, 4)."""
    rows = torch.full((len(boxes),), BELOW)
    if not len(truth):
        return rows
    centres = cells.centres
    inside = torch.zeros(len(truth), len(boxes), dtype=torch.bool)
    near = inside.clone()
    for g, (x1, y1, x2, y2) in enumerate(truth.tolist()):
        for a, ((x, y), stride) in enumerate(zip(centres.tolist(), cells.strides.tolist())):
            inside[g, a] = x1 < x < x2 and y1 < y < y2
            near[g, a] = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) < 2.5 * stride
    candidates = torch.where((inside | near).any(0))[0]
    iou = box_iou(truth, boxes[candidates])
    probability = (logits[candidates].sigmoid() * objectness[candidates, None].sigmoid()).sqrt()
    chosen = torch.zeros_like(iou, dtype=torch.bool)
    cost = torch.zeros_like(iou)
    for g, label in enumerate(labels.tolist()):
        wanted = F.one_hot(torch.tensor(label), logits.shape[1]).float().expand_as(probability)
        wrong = F.binary_cross_entropy(probability, wanted, reduction="none").sum(1)
        far = ~(inside & near)[g, candidates]
        cost[g] = wrong - 3 * (iou[g] + 1e-8).log() + 1e5 * far
        k = max(1, int(iou[g].topk(min(10, len(candidates))).values.sum()))
        chosen[g, cost[g].topk(k, largest=False).indices] = True
    for column, cell in enumerate(candidates.tolist()):
        takers = chosen[:, column].nonzero()[:, 0]
        if len(takers) == 1:
            rows[cell] = takers[0]
        elif len(takers):
            rows[cell] = cost[:, column].argmin()
    return rows


@pytest.mark.parametrize("seed", range(6))
def test_a_batch_is_what_its_pictures_are_alone(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    counts = [5, 0, 12, 1]
    cells = len(CELLS.strides)
    codes = torch.cat([draw(4, cells, 2) * 2 - 0.5, draw(4, cells, 2) * 2 - 0.5], 2)
    boxes, logits, objectness = CELLS.decode(codes), draw(4, cells, 3) * 6 - 3, draw(4, cells) * 6 - 3
    corners = [draw(n, 2) * 50 for n in counts]
    truths = [torch.cat([c, c + 2 + draw(len(c), 2) * 30], 1) for c in corners]
    labels = [torch.randint(3, (n,), generator=generator) for n in counts]
    targets = [{"boxes": b, "box_labels": c} for b, c in zip(truths, labels)]
    matched = simota(boxes, logits, objectness, CELLS.centres, CELLS.strides, padded_truth(targets))
    for i in range(4):
        expected = reference(boxes[i], logits[i], objectness[i], CELLS, truths[i], labels[i])
        assert matched[i].tolist() == expected.tolist()
    assert (matched >= 0).sum(1).tolist() >= [5, 0, 1, 1]


def test_without_objects_everything_is_background() -> None:
    cells = len(CELLS.strides)
    empty = padded_truth([{"boxes": torch.zeros(0, 4), "box_labels": torch.zeros(0, dtype=torch.int64)}])
    matched = simota(
        CELLS.boxes[None], torch.zeros(1, cells, 3), torch.zeros(1, cells), *CELLS_ARGUMENTS, truth=empty
    )
    assert (matched == BELOW).all()


CELLS_ARGUMENTS = (CELLS.centres, CELLS.strides)


def test_crowds_and_slivers_are_no_truth() -> None:
    _, targets = collate(
        [
            sample([[4, 4, 30, 40], [20, 10, 60, 50]], crowd=[True, False]),
            sample([[3, 3, 3.004, 60], [1, 2, 9, 9], [5, 5, 8, 8]]),
        ]
    )
    truth = padded_truth(targets)
    assert isinstance(truth, Truth) and truth.real.tolist() == [[True, False], [True, True]]
    assert truth.boxes[0, 0].tolist() == [20, 10, 60, 50] and truth.labels.tolist() == [[1, 0], [1, 2]]
