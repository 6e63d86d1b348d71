"""Kept proposals: computed once for each content, never taken from a damaged entry."""

from pathlib import Path

import numpy as np
import pytest

from retinue.datasets.targets import DataError, Sample
from retinue.tools import proposal_cache
from retinue.tools.proposal_cache import CachedSearch, default_folder, read_entry, write_entry


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str, int]]:
    """What was searched for: each picture's mean, mode and side. It has as many boxes as its first pixel says."""
    calls = []

    def search(image: np.ndarray, mode: str, side: int) -> np.ndarray:
        calls.append((float(image.mean()), mode, side))
        return np.arange(4 * int(image[0, 0, 0]), dtype=np.float32).reshape(-1, 4)

    monkeypatch.setattr(proposal_cache, "selective_search", search)
    return calls


def flat(value: int, height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_each_content_is_searched_once_in_each_way(
    searched: list[tuple[float, str, int]], tmp_path: Path
) -> None:
    fast, small = (
        CachedSearch(folder=tmp_path / "new/folder"),
        CachedSearch(side=9, folder=tmp_path / "new/folder"),
    )
    for _ in range(2):
        assert fast.boxes(flat(3)).tolist() == np.arange(12.0).reshape(3, 4).tolist()
        assert fast.boxes(flat(5)).shape == (5, 4) and fast.boxes(flat(0)).shape == (0, 4)
        assert fast.boxes(flat(3, 6, 4)).shape == (3, 4)  # the same bytes, another picture
        assert CachedSearch("quality", folder=tmp_path / "new/folder").boxes(flat(3)).shape == (3, 4)
        assert small.boxes(flat(3)).dtype == np.float32
    assert searched == [
        (3, "fast", 500), (5, "fast", 500), (0, "fast", 500), (3, "fast", 500), (3, "quality", 500), (3, "fast", 9),
    ]  # fmt: skip
    assert len(list((tmp_path / "new/folder").iterdir())) == 6


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "longer"])
def test_a_damaged_entry_is_computed_anew(
    damage: str, searched: list[tuple[float, str, int]], tmp_path: Path
) -> None:
    search = CachedSearch(folder=tmp_path)
    search.boxes(flat(7))
    path = search.path(flat(7))
    whole = path.read_bytes()
    changed = {
        "cut": whole[:-16],
        "empty": b"",
        "longer": whole + bytes(16),
        "flipped": whole[:40] + b"?" + whole[41:],
    }
    path.write_bytes(changed[damage])
    assert read_entry(path) is None
    assert len(search.boxes(flat(7))) == 7 and len(searched) == 2
    assert path.read_bytes() == whole and len(list(tmp_path.iterdir())) == 1


def test_an_entry_is_read_as_it_was_written(tmp_path: Path) -> None:
    boxes = np.random.default_rng(0).random((9, 4), np.float32)
    write_entry(tmp_path / "a", boxes)
    found = read_entry(tmp_path / "a")
    assert found is not None and np.array_equal(found, boxes) and found.flags.writeable
    assert read_entry(tmp_path / "b") is None


def test_a_sample_leaves_its_picture_and_takes_its_best_boxes(
    searched: list[tuple[float, str, int]], tmp_path: Path
) -> None:
    made = CachedSearch(folder=tmp_path, most=2)(Sample("a", flat(3)), np.random.default_rng(0))
    assert made.image.shape == (1, 1, 3) and made.file_size == (4, 6)
    assert made.inputs["proposals"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_the_folder_is_the_users_and_one_that_cannot_be_written_is_named(
    searched: list[tuple[float, str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "retinue/selective_search"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache/retinue/selective_search"
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: proposals cannot be kept there .*cache=FOLDER"):
        CachedSearch(folder=tmp_path / "file")
    gone = CachedSearch(folder=tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(DataError, match="gone: proposals cannot be kept there"):
        gone.boxes(flat(2))
