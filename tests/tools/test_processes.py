"""What one process finds out, all know: its result and its error, and it alone is asked."""

import subprocess
import sys
from pathlib import Path

import pytest

from retinue.tools.processes import found_by_first


def test_alone_a_process_asks_itself() -> None:
    assert found_by_first(lambda: 5) == 5
    with pytest.raises(ValueError, match="no"):
        found_by_first(lambda: int("no"))


def test_of_two_processes_the_first_is_asked_and_both_hear(tmp_path: Path) -> None:
    script = Path(__file__).with_name("one_of_two.py")
    command = [sys.executable, str(script)]
    running = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store"), str(tmp_path)]) for rank in range(2)
    ]
    assert [process.wait(timeout=100) for process in running] == [0, 0]
    assert (tmp_path / "asked").read_text() == "0 "
    for rank in range(2):
        assert (tmp_path / f"heard{rank}").read_text() == "{'rank': 0}\na.png: is truncated"
