"""Fair timings: rivals run in turn, and what counts is the ratio within a round."""

import statistics
import time
from collections.abc import Callable


def take_turns(rivals: dict[str, Callable[[], float]], seconds: float) -> dict[str, list[float]]:
    """What each rival returns (a time), over rounds in which every one runs once; one round first to warm up."""
    for rival in rivals.values():
        rival()
    times: dict[str, list[float]] = {name: [] for name in rivals}
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(next(iter(times.values()))) < 3:
        for name, rival in rivals.items():
            times[name].append(rival())
    return times


def ratio(times: dict[str, list[float]], base: str, name: str) -> float:
    """How many times as fast `name` is as `base`: the median over rounds of the ratio within a round."""
    return statistics.median(b / t for b, t in zip(times[base], times[name]))
