"""The rise of memory: of what work takes at its highest, whatever was taken before and is freed after.

In processes of their own: the allocator of one that has run other tests may keep what is freed.
"""

import subprocess
import sys

import pytest

from retinue.tools.peak_memory import RESET

MIB = 2**20
pytestmark = pytest.mark.skipif(
    not RESET.exists(), reason="this system does not tell a process's peak of memory"
)


def rises(program: str) -> list[int]:
    """What a program in a fresh process prints, numbers in MiB."""
    start = "import numpy as np\nfrom retinue.tools.peak_memory import peak_rise\nMIB = 2**20\n"
    done = subprocess.run([sys.executable, "-c", start + program], capture_output=True, text=True, check=True)
    return [int(word) // MIB for word in done.stdout.split()]


def test_the_highest_counts_and_not_what_stays() -> None:
    (rise,) = rises("""
def work():
    np.ones(40 * MIB, np.uint8)
    np.ones(64 * MIB, np.uint8)
print(peak_rise(work))
""")
    assert 60 < rise < 80


def test_an_earlier_peak_and_freed_memory_hide_nothing() -> None:
    kept, nothing = rises("""
np.ones(200 * MIB, np.uint8)
pieces = [bytes(50_000) for _ in range(2000)]  # which the allocator would keep
del pieces
kept = []
print(peak_rise(lambda: kept.append([bytes(50_000) for _ in range(2000)])))
print(peak_rise(lambda: None))
""")
    assert 80 < kept < 120 and nothing < 4
