"""Batch norms that were folded away come back with statistics, and the network is what it was."""

import pytest
import torch
from torch import nn

from retinue.backbones.fold import folded, folded_norm, is_folded, unfold


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, 1e-3), nn.SiLU()),
        *(nn.Conv2d(8, 4, 3, 2, bias=False), nn.BatchNorm2d(4, 1e-3), nn.SiLU()),
        *(nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5)),
    )


@torch.no_grad()
def with_folded_norms() -> nn.Sequential:
    """The first two norms are folded, with biases that are not 0; the third one is new."""
    it = network()
    for norm in (it[1], it[4]):
        norm.load_state_dict(folded_norm(norm, torch.randn(norm.num_features)), strict=False)
    return it


def test_folded_norms_are_told_from_new_and_learned_ones():
    it = with_folded_norms()
    assert [is_folded(layer) for layer in it] == [i in (1, 4) for i in range(8)]
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(it[1].eval()(x), x + it[1].bias.view(1, -1, 1, 1))
    it[1].train()(x)
    assert not is_folded(it[1])
    assert not is_folded(nn.BatchNorm2d(3, eps=1e-6))
    small = nn.BatchNorm2d(3, eps=1e-6)
    small.load_state_dict(folded_norm(small, torch.randn(3)), strict=False)
    assert is_folded(small)
    assert not is_folded(nn.BatchNorm2d(3)) and not is_folded(nn.BatchNorm2d(3, affine=False))


@torch.no_grad()
def test_unfolding_changes_no_answer_and_gives_the_statistics_of_the_batches():
    it = with_folded_norms().train()
    batches = [torch.rand(4, 3, 20, 24) for _ in range(3)]
    expected = it.eval()(batches[0])
    it.train()
    assert unfold(it, [lambda x=x: it(x) for x in batches]) == ["1", "4"]
    assert it.training and not any(is_folded(layer) for layer in it)
    torch.testing.assert_close(it.eval()(batches[0]), expected, rtol=1e-4, atol=1e-5)
    read = it[0](torch.cat(batches))
    torch.testing.assert_close(it[1].running_mean, read.mean((0, 2, 3)))
    torch.testing.assert_close(it[1].running_var, read.var((0, 2, 3), unbiased=False))
    whole = it[:6].train()(torch.cat(batches))  # by the batch's own statistics, which are those
    torch.testing.assert_close(whole, it[:6].eval()(torch.cat(batches)), rtol=0.2, atol=0.05)
    assert it[7].running_mean.eq(0).all()


@torch.no_grad()
def test_folding_what_was_unfolded_gives_the_convolutions_back():
    it = with_folded_norms().eval()
    weight, bias = it[0].weight.clone(), it[1].bias.clone()
    unfold(it, [lambda: it(torch.rand(2, 3, 16, 16))])
    again = folded(it[0], it[1].eval())
    torch.testing.assert_close(again[0], weight)
    torch.testing.assert_close(again[1], bias, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_nothing_runs_and_nothing_changes():
    it = with_folded_norms()
    before = {key: value.clone() for key, value in it.state_dict().items()}
    unfold(it, [])
    assert all(torch.equal(before[key], value) for key, value in it.state_dict().items())


@pytest.mark.parametrize("constant", [0.0, 3.0])
@torch.no_grad()
def test_channels_that_never_change_stay_finite(constant):
    it = with_folded_norms().eval()
    x = torch.full((2, 3, 16, 16), constant)
    expected = it(x)
    unfold(it, [lambda: it(x)])
    torch.testing.assert_close(it(x), expected, rtol=1e-3, atol=1e-3)
