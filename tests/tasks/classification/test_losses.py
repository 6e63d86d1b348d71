import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from retinue.tasks.classification import balanced_weights, cross_entropy, mix_labels


def test_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0]])
    total, count = cross_entropy(logits, torch.tensor([0, 0]))
    assert total.item() == pytest.approx(math.log(4) + math.log(5 / 4)) and count.item() == 2


def test_weights_by_hand():
    logits = torch.zeros(3, 2)
    total, count = cross_entropy(logits, torch.tensor([0, 1, 1]), torch.tensor([1.0, 3.0]))
    assert total.item() == pytest.approx(7 * math.log(2)) and count.item() == 7


@given(
    st.integers(0, 10_000),
    st.integers(1, 5),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from([0.0, 0.1, 0.5]),
)
def test_the_mean_is_that_of_torch(seed, n, k, weighted, smoothing):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(n, k, generator=generator)
    labels = torch.randint(k, (n,), generator=generator)
    weights = torch.rand(k, generator=generator) + 0.1 if weighted else None
    total, count = cross_entropy(logits, labels, weights, smoothing)
    expected = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    torch.testing.assert_close(total / count, expected, rtol=1e-5, atol=1e-6)


def test_half_precision_is_summed_in_float32():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    total, _ = cross_entropy(logits, torch.tensor([0, 1, 2, 0]))
    assert total.dtype == torch.float32
    torch.testing.assert_close(
        total, F.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 0]), reduction="sum")
    )


def test_no_picture_is_no_loss():
    total, count = cross_entropy(torch.zeros(0, 3, requires_grad=True), torch.zeros(0, dtype=torch.long))
    assert total.item() == 0 and count.item() == 0
    total.backward()


def test_mixed_labels_mix_the_losses():
    labels, others = torch.tensor([0, 1]), torch.tensor([2, 1])
    share = torch.tensor([0.25, 0.5])
    mixed = mix_labels(labels, others, share, 3)
    torch.testing.assert_close(mixed, torch.tensor([[0.75, 0, 0.25], [0, 1, 0]]))
    logits = torch.tensor([[1.0, 2, 3], [0, 1, 0]])
    each, other = (F.cross_entropy(logits, y, reduction="none") for y in (labels, others))
    total, count = cross_entropy(logits, mixed)
    torch.testing.assert_close(total, ((1 - share) * each + share * other).sum())
    assert count.item() == 2


def test_mixed_labels_share_the_class_weights():
    mixed = mix_labels(torch.tensor([0]), torch.tensor([1]), torch.tensor([0.25]), 2)
    total, count = cross_entropy(torch.zeros(1, 2), mixed, torch.tensor([1.0, 5.0]))
    assert count.item() == 2 and total.item() == pytest.approx(2 * math.log(2))


def test_balanced_weights():
    assert balanced_weights([30, 10]) == [40 / 60, 2.0]
    assert balanced_weights([5, 0, 5]) == [1.0, 0.0, 1.0]
    assert balanced_weights([7]) == [1.0]
    assert balanced_weights([0, 0]) == [0.0, 0.0]
