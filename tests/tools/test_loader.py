"""Order, shares and batches: every picture once, the same for any number of workers and processes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retinue.datasets.image_folder import ImageFolder
from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import DataError, Sample
from retinue.datasets.transforms import ColorJitter, Compose, HorizontalFlip, RandomResizedCrop
from retinue.tools.loader import (
    Loader,
    OneByOne,
    View,
    aspect_bins,
    canvas,
    default_workers,
    epoch_batches,
    evaluation_keys,
    share,
)

counts, sizes = st.integers(1, 300), st.integers(1, 64)


@given(counts, sizes, st.integers(0, 2**40), st.integers(0, 1000))
def test_an_epoch_has_every_picture_once_in_even_batches(
    count: int, batch: int, seed: int, epoch: int
) -> None:
    batches = epoch_batches(count, batch, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    lengths = [len(b) for b in batches]
    assert max(lengths) <= batch and max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True) and len(batches) == -(-count // batch)
    again = epoch_batches(count, batch, seed, epoch)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again))


@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), min_size=1, max_size=200),
    sizes,
    st.integers(0, 99),
    st.integers(1, 4),
)
def test_batches_by_aspect_have_every_picture_once(
    shapes: list[tuple[int, int]], batch: int, epoch: int, ranks: int
) -> None:
    known = np.array(shapes, np.int32)
    batches = epoch_batches(len(shapes), batch, 5, epoch, ranks, known)
    plain = epoch_batches(len(shapes), batch, 5, epoch, ranks)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(shapes)))
    assert sorted(map(len, batches)) == sorted(map(len, plain))
    again = epoch_batches(len(shapes), batch, 5, epoch, ranks, known)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again))
    bins = aspect_bins(known)
    mixed = sum(len(set(bins[b])) - 1 for b in batches)
    assert mixed <= len(set(bins)) - 1  # only where one bin ends and the next begins
    assert len(batches[0]) * canvas(known[batches[0]]) == max(len(b) * canvas(known[b]) for b in batches)


def test_batches_by_aspect_need_less_canvas_and_differ_by_epoch() -> None:
    rng = np.random.default_rng(0)
    tall = rng.random(400) < 0.5
    shapes = np.where(tall[:, None], (640, 480), (480, 640))

    def padded(sizes: np.ndarray | None, epoch: int) -> float:
        batches = epoch_batches(400, 8, 0, epoch, sizes=sizes)
        return sum(len(b) * canvas(shapes[b]) for b in batches) / 400

    assert padded(shapes, 0) == pytest.approx(4 / 3, rel=0.01) and padded(None, 0) > 1.7
    first, second = (epoch_batches(400, 8, 0, epoch, sizes=shapes) for epoch in (0, 1))
    assert {frozenset(b) for b in first}.isdisjoint({frozenset(b) for b in second})


def test_aspects_by_hand() -> None:
    shapes = np.array([(480, 640), (640, 480), (500, 500), (0, 0), (100, 900), (900, 100)])
    bins = aspect_bins(shapes)
    assert bins[0] > bins[1] and bins[2] == bins[3] and bins[4] == max(bins) == 7 and bins[5] == 0
    assert canvas(np.array([(2, 4), (6, 2)])) == 3 * 2


def test_order_depends_on_seed_and_epoch() -> None:
    orders = {
        tuple(np.concatenate(epoch_batches(50, 8, seed, epoch))) for seed in range(3) for epoch in range(3)
    }
    assert len(orders) == 9


def test_batches_by_hand() -> None:
    assert [len(b) for b in epoch_batches(10, 4, 0, 0)] == [4, 3, 3]
    assert [len(b) for b in epoch_batches(3, 8, 0, 0)] == [3]
    assert share(np.arange(5), 0, 2).tolist() == [0, 1, 2] and share(np.arange(5), 1, 2).tolist() == [3, 4]


@given(counts, sizes, st.integers(1, 8))
def test_shares_of_the_ranks_are_disjoint_and_complete(count: int, batch: int, ranks: int) -> None:
    for b in epoch_batches(count, batch, 0, 0):
        parts = [share(b, rank, ranks) for rank in range(ranks)]
        assert np.concatenate(parts).tolist() == b.tolist()
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(0, 300), sizes, st.integers(1, 8))
def test_evaluation_sees_every_picture_once_in_the_batches_of_one_process(
    count: int, batch: int, ranks: int
) -> None:
    alone = evaluation_keys(count, batch)
    parts = [evaluation_keys(count, batch, rank, ranks) for rank in range(ranks)]
    together = [keys for part in parts for keys in part]
    assert sorted(together) == alone
    assert [key for keys in alone for key in keys] == [(0, i) for i in range(count)]
    assert all(len(keys) == batch for keys in alone[:-1])
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.fixture
def view(paint_folder: Any, tmp_path: Path) -> View:
    paint_folder(tmp_path, train={"blue": 4, "red": 5})
    recipe = Compose([RandomResizedCrop(16, (0.3, 1.0)), HorizontalFlip(), ColorJitter(0.2, 0.2, 0.2)])
    return View(ImageFolder(tmp_path, "train"), recipe, {"label"}, seed=3)


def test_workers_change_no_bit(view: View) -> None:
    keys = [[(2, int(i)) for i in batch] for batch in epoch_batches(len(view), 4, 3, 2)]
    torch.manual_seed(0)
    alone = list(Loader(view, 0).batches(keys))
    for workers in (1, 2):
        torch.manual_seed(workers)
        several = list(Loader(view, workers).batches(keys))
        assert len(several) == len(alone) == 3
        for (pictures, targets), (others, other_targets) in zip(alone, several):
            assert torch.equal(pictures.pixels, others.pixels) and pictures.ids == others.ids
            assert targets == other_targets


def test_reading_draws_nothing_from_the_global_generators(view: View) -> None:
    torch.manual_seed(5), np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(Loader(view, 1).batches([[(0, 0), (0, 1)]]))
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(
        before[1], np.random.get_state()[1]
    )


def test_what_is_drawn_depends_on_epoch_and_index_alone(view: View) -> None:
    def pixels(key: tuple[int, int]) -> np.ndarray:
        sample = view[key]
        assert isinstance(sample, Sample)
        return sample.image

    assert np.array_equal(pixels((1, 4)), pixels((1, 4)))
    assert not np.array_equal(pixels((1, 4)), pixels((2, 4)))


def test_a_part_of_the_keys_gives_a_part_of_the_batches(view: View) -> None:
    keys = [[(0, i)] for i in range(6)]
    loader = Loader(view, 1)
    whole = [pictures.pixels for pictures, _ in loader.batches(keys)]
    rest = [pictures.pixels for pictures, _ in loader.batches(keys[4:])]
    assert len(rest) == 2 and all(torch.equal(a, b) for a, b in zip(whole[4:], rest))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_raises_by_name(workers: int, view: View) -> None:
    view.dataset.path(2).write_bytes(b"")
    with pytest.raises(DataError, match=r"train/blue/2\.png"):
        list(Loader(view, workers).batches([[(0, 0)], [(0, 2)], [(0, 3)]]))


def test_other_targets_are_left_out_and_the_files_frame_is_kept(view: View) -> None:
    assert View(view.dataset, view.transform, set())[0, 0].targets == {}  # type: ignore[union-attr]
    sample = View(view.dataset, view.transform, {"label"}, file_frame=True)[0, 8]
    assert isinstance(sample, Sample) and sample.targets["label"] == 1


def test_inputs_that_no_task_reads_are_left_out() -> None:
    def inputs(**asked: Any) -> set[str]:
        sample = View(Scenes(1, 16), Compose([]), {"boxes"}, **asked)[0, 0]
        assert isinstance(sample, Sample)
        return set(sample.inputs)

    assert inputs() == inputs(inputs={"intrinsics", "hole"}) == {"intrinsics"} and inputs(inputs=()) == set()


def test_only_what_is_asked_for_is_decoded(view: View) -> None:
    class Masked:
        keys = frozenset({"label", "masks"})

        def __init__(self) -> None:
            self.calls: list[frozenset[str]] = []

        def with_keys(self, keys: frozenset[str]) -> Any:
            self.calls.append(keys)
            return view.dataset

    dataset = Masked()
    own = View(dataset, view.transform, {"label", "area"})
    assert dataset.calls == [{"label"}] and own.dataset is view.dataset


def test_default_workers_leave_room_for_what_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads, expected in ((1, 0, 0), (2, 2, 1), (4, 1, 3), (64, 0, 8)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        assert default_workers(threads) == expected


def test_the_last_epochs_have_a_transform_of_their_own() -> None:
    view = View(Scenes(3, 64), HorizontalFlip(p=1), ("boxes",), late=(2, HorizontalFlip(p=0)))
    plain = View(Scenes(3, 64), HorizontalFlip(p=0), ("boxes",))
    samples = [view[epoch, 1] for epoch in range(4)]
    there, back = (plain[0, 1].image, plain[0, 1].image[:, ::-1])  # type: ignore[union-attr]
    same = [[np.array_equal(s.image, image) for s in samples] for image in (there, back)]  # type: ignore[union-attr]
    assert same == [[False, False, True, True], [True, True, False, False]]


def test_one_by_one_samples_are_as_their_files_have_them() -> None:
    scenes = Scenes(3, 48)
    loader = OneByOne(View(scenes, Compose([]), {"semantic"}, file_frame=True))
    found = list(loader.batches(evaluation_keys(3, 1)))
    assert len(found) == 3
    for (sample, (target,)), same in zip(found, (scenes[i] for i in range(3))):
        assert sample.id == same.id and sample.image.dtype == np.uint8 and not sample.targets
        assert np.array_equal(sample.image, same.image)
        assert target.keys() == {"semantic"} and np.array_equal(target["semantic"], same.targets["semantic"])
    error = DataError("a.png: is truncated")
    with pytest.raises(DataError, match="is truncated"):
        list(OneByOne({(0, 0): error}).batches([[(0, 0)]]))  # type: ignore[arg-type]
