"""JSON that others wrote: read without surprises, its values shown in messages."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from retinue.datasets.targets import DataError


def load_json(file: Path, what: str, nested: str = "write it again") -> Any:
    """The file's value, of any type. DataError, with `what` it should be, where it cannot be read.

    nested: the remedy for lists in lists that are deeper than any such file's.
    """
    try:
        return json.loads(file.read_bytes().decode("utf-8-sig"))
    except RecursionError:
        raise DataError(f"{file}: nested too deeply for {what}; {nested}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({str(error)[:200]}); write it again") from None


def numeric(values: Iterable[Any], most: float = sys.float_info.max) -> bool:
    """Whether all are plain numbers, finite and no larger than `most`; true and false are none."""
    return all(type(value) in (int, float) and abs(value) <= most for value in values)  # which NaN is not


def shown(value: Any, most: int = 60) -> str:
    """A value in a message, as the file has it; huge ones are cut."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}..."
