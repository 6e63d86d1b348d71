"""How much memory a piece of work takes beyond what is there before it; Linux."""

import ctypes
from collections.abc import Callable
from pathlib import Path

RESET = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


def peak_rise(work: Callable[[], object]) -> int:
    """Bytes by which this process's resident memory stands, at its highest during `work`, above where it began.

    What was freed before goes back to the system first, as it would serve the work unseen. Raises OSError where the
    system does not tell.
    """
    ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text("5")  # the highest so far becomes what is there now: proc(5), /proc/pid/clear_refs
    before = _status("VmRSS")
    work()
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
