"""The rise of memory: of what work takes at its highest, whatever was taken before and is freed after."""

import numpy as np
import pytest

from retinue.tools.peak_memory import RESET, peak_rise

MIB = 2**20
pytestmark = pytest.mark.skipif(
    not RESET.exists(), reason="this system does not tell a process's peak of memory"
)


def test_the_highest_counts_and_not_what_stays() -> None:
    def work() -> None:
        np.ones(40 * MIB, np.uint8)
        np.ones(64 * MIB, np.uint8)

    assert 60 * MIB < peak_rise(work) < 80 * MIB


def test_an_earlier_peak_and_freed_memory_hide_nothing() -> None:
    np.ones(200 * MIB, np.uint8)
    pieces = [bytes(50_000) for _ in range(2000)]  # which the allocator would keep
    del pieces
    kept: list[list[bytes]] = []
    assert 80 * MIB < peak_rise(lambda: kept.append([bytes(50_000) for _ in range(2000)])) < 120 * MIB
    assert peak_rise(lambda: None) < 4 * MIB
