import torch
from hypothesis import given
from hypothesis import strategies as st

from retinue.tasks.detection.sampling import sample


@given(st.integers(1, 4), st.integers(0, 40), st.integers(1, 20), st.floats(0, 1), st.integers(0, 2**31))
def test_counts(rows: int, candidates: int, size: int, fraction: float, seed: int) -> None:
    kinds = torch.randint(-1, 2, (rows, candidates), generator=torch.Generator().manual_seed(seed))
    positive, negative = kinds == 1, kinds == 0
    chosen = sample(positive, negative, size, fraction)
    assert not (chosen & (kinds == -1)).any()
    wanted = positive.sum(1).clamp(max=int(size * fraction))
    assert torch.equal((chosen & positive).sum(1), wanted)
    assert torch.equal((chosen & negative).sum(1), torch.minimum(negative.sum(1), size - wanted))


def test_every_candidate_has_the_same_chance() -> None:
    torch.manual_seed(0)
    positive = torch.zeros(4000, 8, dtype=torch.bool)
    positive[:, :4] = True
    chosen = sample(positive, ~positive, 4, 0.5).float().mean(0)
    torch.testing.assert_close(chosen, torch.full((8,), 0.5), rtol=0, atol=0.04)


@given(st.integers(0, 40), st.integers(1, 20), st.integers(0, 2**31))
def test_half_of_the_background_offends_most(candidates: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(-1, 2, (2, candidates), generator=generator)
    positive, negative = kinds == 1, kinds == 0
    offence = torch.rand(2, candidates, generator=generator)
    chosen = sample(positive, negative, size, 0.5, offence)
    wanted = positive.sum(1).clamp(max=size // 2)
    assert torch.equal((chosen & positive).sum(1), wanted)
    assert torch.equal((chosen & negative).sum(1), torch.minimum(negative.sum(1), size - wanted))
    for row in range(2):
        worst = offence[row].where(negative[row], -1.0).argsort(descending=True)
        half = min(int(size - wanted[row]) // 2, int(negative[row].sum()))
        assert chosen[row, worst[:half]].all()
