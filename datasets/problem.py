"""What can be wrong with one file of a data set, as `check` reports it and a data set's `problems()` gives it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. An "error" spoils training or its figures; a "warning" is worth a look."""

    level: Literal["error", "warning"]
    kind: str
    file: str
    value: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.level}: {self.kind}: {self.file}: {self.value}; {self.remedy}"
