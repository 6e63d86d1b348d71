import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from retinue.datasets.targets import IGNORE
from retinue.tasks.segmentation.losses import (
    cross_entropy,
    dice,
    focal,
    hard_pixels,
    lovasz_softmax,
    median_frequency_weights,
)

CAMVID = Path(__file__).parents[3].parent / "shared/data/camvid"
Loss = Callable[[Tensor, Tensor], Tensor]
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 7.0])
LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "weighted": lambda logits, truth: cross_entropy(logits, truth, WEIGHTS, 0.1),
    "hard": lambda logits, truth: cross_entropy(logits, truth, WEIGHTS, hard=0.3),
    "focal": lambda logits, truth: focal(logits, truth, 2.0, WEIGHTS),
    "root": lambda logits, truth: focal(logits, truth, 0.5),
    "dice": dice,
    "lovasz": lovasz_softmax,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def batch(seed: int = 0, n: int = 3, classes: int = 4, ignored: float = 0.2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(classes, (n, 5, 7), generator=generator)
    truth[torch.rand(truth.shape, generator=generator) < ignored] = IGNORE
    return 3 * torch.randn(n, classes, 5, 7, generator=generator), truth


def certain(labels: Tensor, classes: int) -> Tensor:
    """Logits of a network that is sure of these labels."""
    return 200.0 * F.one_hot(labels, classes).movedim(-1, 1).float()


# All of them


@every_loss
def test_where_all_is_ignored_the_loss_is_zero_and_descends_nowhere(loss: Loss) -> None:
    for n in (0, 2):
        logits = torch.randn(n, 4, 5, 7, requires_grad=True)
        value = loss(logits, torch.full((n, 5, 7), IGNORE))
        value.backward()
        assert value.item() == 0 and value.ndim == 0
        assert logits.grad is not None and not logits.grad.any()


@every_loss
def test_ignored_pixels_neither_count_nor_learn(loss: Loss) -> None:
    logits, truth = batch(ignored=0.4)
    logits.requires_grad_()
    value = loss(logits, truth)
    value.backward()
    assert logits.grad is not None
    reached = logits.grad.any(1)
    assert not reached[truth == IGNORE].any() and reached.any()
    other = logits.detach() + 50 * torch.randn(logits.shape) * (truth == IGNORE)[:, None]
    torch.testing.assert_close(loss(other, truth), value.detach())


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(loss: Loss, dtype: torch.dtype) -> None:
    logits, truth = batch()
    half = logits.to(dtype).requires_grad_()
    value = loss(half, truth)
    value.backward()
    assert value.dtype == torch.float32 and half.grad is not None and half.grad.dtype == dtype
    torch.testing.assert_close(value.detach(), loss(half.detach().float(), truth))


@every_loss
def test_sure_and_right_is_without_loss_and_sure_and_wrong_is_finite(loss: Loss) -> None:
    _, truth = batch()
    labels = truth.where(truth != IGNORE, 0)
    for shift in (0, 1):
        logits = certain((labels + shift) % 4, 4).requires_grad_()
        value = loss(logits, truth)
        value.backward()
        assert value.isfinite() and logits.grad is not None and logits.grad.isfinite().all()
        smoothed = loss is LOSSES["weighted"]  # which wants nobody to be sure
        assert smoothed or (value < 1e-6 if shift == 0 else value > 0.9)


@every_loss
def test_gradients_are_those_of_the_value(loss: Loss) -> None:
    logits, truth = batch(1, n=2)
    logits = logits[:, :, :3, :3].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, truth[:, :3, :3]), logits)


class Ranks(threading.local):
    """Two processes, each a thread here: `all_reduce` waits until both have come."""

    def __init__(self) -> None:
        self.rank = 0


@pytest.fixture
def in_two_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[int], None]], None]]:
    ranks, given, barrier = Ranks(), {}, threading.Barrier(2, timeout=60)

    def all_reduce(tensor: Tensor) -> None:
        given[ranks.rank] = tensor.clone()
        barrier.wait()
        total = given[0] + given[1]
        barrier.wait()
        tensor.copy_(total)

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)

    def run(work: Callable[[int], None]) -> None:
        def of_rank(rank: int) -> None:
            ranks.rank = rank
            work(rank)

        threads = [threading.Thread(target=of_rank, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    yield run
    monkeypatch.undo()


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "lovasz"])
@pytest.mark.parametrize("empty", [False, True])
def test_two_processes_with_uneven_shares_give_the_loss_and_gradient_of_one(
    name: str, empty: bool, in_two_processes: Callable[[Callable[[int], None]], None]
) -> None:
    loss = LOSSES[name]
    logits, truth = batch(2, n=5)
    truth[0], truth[4] = 1, IGNORE if empty else 2
    parts = (slice(0, 4), slice(4, 5))
    values, grads = [torch.zeros(()), torch.zeros(())], [torch.zeros(()), torch.zeros(())]

    def work(rank: int) -> None:
        own = logits[parts[rank]].clone().requires_grad_()
        value = loss(own, truth[parts[rank]])
        value.backward()
        assert own.grad is not None
        values[rank], grads[rank] = value.detach(), own.grad

    in_two_processes(work)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.distributed.is_initialized", lambda: False)
        whole = logits.clone().requires_grad_()
        expected = loss(whole, truth)
        expected.backward()
    torch.testing.assert_close((values[0] + values[1]) / 2, expected.detach())
    torch.testing.assert_close(torch.cat(grads) / 2, whole.grad)


# Each by hand


@given(
    st.integers(0, 10_000),
    st.integers(1, 3),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from([0.0, 0.1, 0.5]),
)
def test_cross_entropy_is_that_of_torch(
    seed: int, n: int, classes: int, weighted: bool, smoothing: float
) -> None:
    logits, truth = batch(seed, n, classes)
    truth[0, 0, 0] = 0  # torch's mean of nothing is NaN
    weights = torch.rand(classes) + 0.1 if weighted else None
    expected = F.cross_entropy(logits, truth, weights, ignore_index=IGNORE, label_smoothing=smoothing)
    torch.testing.assert_close(cross_entropy(logits, truth, weights, smoothing), expected)


def test_weights_by_hand() -> None:
    logits = torch.tensor([[[[0.0, math.log(3)]], [[0.0, 0.0]]]])  # p(1) is 1/2 and 1/4
    truth = torch.tensor([[[0, 1]]])
    found = cross_entropy(logits, truth, torch.tensor([1.0, 3.0]))
    assert found.item() == pytest.approx((math.log(2) + 3 * math.log(4)) / 4)
    assert focal(logits, truth).item() == pytest.approx((math.log(2) / 4 + 9 / 16 * math.log(4)) / 2)


def test_pixels_of_classes_without_weight_do_not_count() -> None:
    logits, truth = batch()
    without = torch.tensor([0.0, 1, 1, 1])
    expected = cross_entropy(logits, truth.where(truth != 0, IGNORE))
    torch.testing.assert_close(cross_entropy(logits, truth, without), expected)
    assert cross_entropy(logits, torch.zeros_like(truth), without) == 0


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_without_gamma_is_the_cross_entropy(weights: Tensor | None) -> None:
    logits, truth = batch()
    torch.testing.assert_close(focal(logits, truth, 0.0, weights), cross_entropy(logits, truth, weights))


def test_hard_pixels_by_hand() -> None:
    losses = torch.tensor([[[5.0, 1, 9], [4, 3, 2]], [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]])
    truth = torch.tensor([[[0, 0, IGNORE], [0, 0, 0]], [[IGNORE] * 3] * 2])
    kept = hard_pixels(losses, truth, 0.4)
    assert kept.tolist() == [[[True, False, False], [True, False, False]], [[False] * 3] * 2]
    assert hard_pixels(losses, truth, 1e-9).nonzero().tolist() == [[0, 0, 0]]
    assert (hard_pixels(losses, truth, 1.0) == (truth != IGNORE)).all()
    assert hard_pixels(torch.ones(1, 2, 3), torch.zeros(1, 2, 3), 0.5).all()  # none is harder than another
    assert hard_pixels(losses / torch.zeros(2, 1, 1), truth, 0.5).any()  # infinite and NaN are seen
    with pytest.raises(ValueError, match="keep=0"):
        hard_pixels(losses, truth, 0)


def test_hard_pixels_make_the_mean() -> None:
    logits, truth = batch()
    losses = F.cross_entropy(logits, truth, ignore_index=IGNORE, reduction="none")
    hardest = []
    for own, counted in zip(losses, truth != IGNORE):
        values = own[counted].sort(descending=True).values
        hardest.append(values[: round(0.3 * len(values))])
    torch.testing.assert_close(cross_entropy(logits, truth, hard=0.3), torch.cat(hardest).mean())
    nan = logits.clone()
    nan[0, 0, 0, 0] = torch.nan
    assert cross_entropy(nan, truth.where(truth != IGNORE, 0), hard=0.1).isnan()


def test_dice_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 0, math.log(3), 5]], [[0, 0, 0, 5]], [[-200.0, -200, -200, 5]]]])
    truth = torch.tensor([[[0, 1, 0, IGNORE]]])  # p(0) is 1/2, 1/2, 3/4
    first, second = 2 * 1.25 / (1.75 + 2), 2 * 0.5 / (1.25 + 1)
    assert dice(logits, truth).item() == pytest.approx(1 - (first + second) / 2)


def iou_loss(labels: Tensor, truth: Tensor, classes: int) -> float:
    losses = []
    for index in range(classes):
        said, true = (labels == index) & (truth != IGNORE), truth == index
        if true.any():
            losses.append(1 - ((said & true).sum() / (said | true).sum()).item())
    return float(np.mean(losses))


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_of_sure_answers_lovasz_is_one_less_iou_and_dice_its_own_kind(seed: int, classes: int) -> None:
    _, truth = batch(seed, classes=classes)
    labels = torch.randint(classes, truth.shape, generator=torch.Generator().manual_seed(seed))
    truth[0, 0, 0] = 0
    found = lovasz_softmax(certain(labels, classes), truth).item()
    assert found == pytest.approx(iou_loss(labels, truth, classes), abs=1e-5)
    assert dice(certain(labels, classes), truth).item() <= found + 1e-5  # 2x / (1 + x) >= x


def lovasz_by_definition(logits: Tensor, truth: Tensor) -> float:
    """The errors, times how much the Jaccard loss of the set of wrong pixels grows, one by one."""
    counted = truth != IGNORE
    probabilities, labels = logits.softmax(1).movedim(1, -1)[counted].double().numpy(), truth[counted].numpy()

    def jaccard_loss(wrong: set[int], true: set[int]) -> float:
        return len(wrong) / len(true | wrong)

    losses = []
    for index in np.unique(labels):
        true = set(np.flatnonzero(labels == index).tolist())
        errors = np.abs((labels == index) - probabilities[:, index])
        wrong: set[int] = set()
        total = 0.0
        for pixel in np.argsort(-errors).tolist():
            before = jaccard_loss(wrong, true)
            wrong.add(pixel)
            total += errors[pixel] * (jaccard_loss(wrong, true) - before)
        losses.append(total)
    return float(np.mean(losses))


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_lovasz_is_its_definition(seed: int, classes: int) -> None:
    logits, truth = batch(seed, classes=classes)
    truth[0, 0, 0] = 0
    found = lovasz_softmax(logits, truth).item()
    assert found == pytest.approx(lovasz_by_definition(logits, truth), abs=1e-5)


def test_lovasz_keeps_small_slopes_among_many_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 700, 700, generator=generator)
    truth = torch.randint(2, (1, 700, 700), generator=generator)
    single, double = (logits.to(kind, copy=True).requires_grad_() for kind in (torch.float32, torch.float64))
    for each in (single, double):
        lovasz_softmax(each, truth).backward()
    assert single.grad is not None and double.grad is not None
    off = (single.grad - double.grad).norm() / double.grad.norm()
    assert off < 1e-4


def test_median_frequency_weights_by_hand() -> None:
    found = median_frequency_weights([0.4, 0.1, 0.0, 0.2])
    torch.testing.assert_close(found, torch.tensor([0.5, 2.0, 0.0, 1.0]))
    assert found.dtype == torch.float32
    assert median_frequency_weights([0.0, 0.0]).tolist() == [0, 0] and not len(median_frequency_weights([]))


@pytest.mark.skipif(not CAMVID.is_dir(), reason="shared/data/camvid is absent")
def test_median_frequency_weights_of_camvid_are_those_that_segnet_was_trained_with() -> None:
    of_class, shown_in = np.zeros(12), np.zeros(12)
    for path in sorted((CAMVID / "trainannot").iterdir()):
        counts = np.bincount(cv2.imread(str(path), cv2.IMREAD_UNCHANGED).ravel(), minlength=12)
        of_class += counts
        shown_in += np.where(counts > 0, counts.sum(), 0)
    published = [
        0.2595,
        0.1826,
        4.5640,
        0.1417,
        0.9051,
        0.3826,
        9.6446,
        1.8418,
        0.6823,
        6.2478,
        7.3614,
        1.0974,
    ]
    ratio = median_frequency_weights(of_class / shown_in).numpy() / published
    ratio[6] = 1  # of signs they give more than twice what their masks say
    assert ratio.min() > 0.85 and ratio.max() < 1.15
