"""The README: its Python runs, its commands exist."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinue.tasks.find import names, settings_of
from retinue.tools.command import parse
from retinue.tools.open_model import answer_settings
from retinue.tools.options import COMMANDS, UsageError, make

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
LINES = re.findall(r"retinue ((?:train|eval|predict|check|list|bench|convert|propose)\b[^`\n&#]*)", TEXT)
WORDS = re.findall(r"`((?:[a-z_]+=[^`\s]+ ?)+)`", TEXT)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0])
def test_python_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    cv2.imwrite("photos/a.jpg", np.full((50, 60, 3), 99, np.uint8))
    exec(compile(block, str(README), "exec"), {})


def check(line: str) -> None:
    """Raise UsageError where the command, the task or an option is none."""
    command, *words = line.split()
    if "--help" in words:
        assert command in COMMANDS
        return
    settings = parse([w.strip("'") for w in words], command)
    extra = settings_of(settings["task"]) if command == "train" else {}
    make(command, settings, answer_settings() if command in ("eval", "predict") else extra)


@pytest.mark.parametrize("line", LINES)
def test_commands_and_options_exist(line: str) -> None:
    check(line)


@pytest.mark.parametrize("words", WORDS)
def test_options_belong_together(words: str) -> None:
    """To the training of some task, to prediction, or to another command."""
    errors = []
    for command in (*(f"train {task}" for task in names()), "predict MODEL", "convert DATA"):
        try:
            return check(f"{command} {words}")
        except UsageError as error:
            errors.append(str(error))
    raise AssertionError(errors)


def test_readme_opens_with_a_picture_and_two_commands() -> None:
    picture = re.search(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert picture and (README.parent / picture[1]).is_file()
    first, second = re.findall(r"^pip install .*$", TEXT, re.MULTILINE)[:2]
    assert "retinue train classification" in first and "pytest" in second
