"""Batch norms that published weights had folded away, before training begins with them."""

from collections.abc import Callable, Iterator
from functools import partial

from retinue.backbones.fold import is_folded, unfold
from retinue.tools.setup import Setup

PICTURES = 64
"""Of the training data, as the first epoch augments them: what the statistics are estimated on."""


def restore_norms(setup: Setup) -> None:
    """Give folded batch norms statistics of the first training pictures: see `retinue.backbones.fold.unfold`.

    Every process takes the same pictures, so that all begin alike. Nothing is read where no norm is folded.
    """
    if not any(is_folded(module) for module in setup.model.modules()):
        return
    model, batches = setup.model.to(setup.device), setup.epoch_batches(0)
    enough = -(-PICTURES // len(batches[-1]))
    keys = [[(0, int(i)) for i in batch] for batch in batches[:enough]]

    def passes() -> Iterator[Callable[[], object]]:
        for pictures, targets in setup.train_loader.batches(keys):
            truth = [{key: value.to(setup.device) for key, value in t.items()} for t in targets]
            yield partial(model, pictures.to(setup.device), truth)

    names = unfold(model, passes())
    setup.log(
        f"{len(names)} batch norms were folded into these weights; they have statistics again, of "
        f"{sum(map(len, keys))} training pictures"
    )
