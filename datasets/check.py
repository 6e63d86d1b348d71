"""Read a data set the way training will, and say what is wrong with it."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from retinue.datasets.formats import Dataset
from retinue.datasets.pictures import read_header
from retinue.datasets.problem import Problem
from retinue.datasets.scan import Progress, in_threads
from retinue.datasets.targets import DataError

SMALL = 16
"""Pictures with a side of fewer pixels are named."""

LONG = 10.0
"""So are those with a larger ratio of sides, and classes that outnumber the rarest one more often."""


@dataclass
class Report:
    """What `check` found. pictures: number of samples by split; notes: how many odd files there are of a kind."""

    pictures: dict[str, int]
    problems: list[Problem] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def errors(self) -> list[Problem]:
        """The problems that spoil training or its figures."""
        return [problem for problem in self.problems if problem.level == "error"]

    def summary(self, most: int = 10) -> str:
        """A few lines: the counts, and at most so many problems of each kind."""
        counted = ", ".join(f"{name} {count}" for name, count in self.pictures.items())
        warnings = len(self.problems) - len(self.errors)
        lines = [f"checked {counted} pictures: {len(self.errors)} errors, {warnings} warnings"]
        lines += [f"note: {count} pictures: {note}" for note, count in self.notes.most_common()]
        kinds: dict[str, list[Problem]] = defaultdict(list)
        for problem in self.problems:
            kinds[problem.kind].append(problem)
        for kind, problems in kinds.items():
            lines += [str(problem) for problem in problems[:most]]
            if len(problems) > most:
                lines.append(f"... and {len(problems) - most} more of {kind}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values: the counts, the notes and every problem."""
        return {
            "pictures": self.pictures,
            "errors": len(self.errors),
            "warnings": len(self.problems) - len(self.errors),
            "notes": dict(self.notes),
            "problems": [asdict(problem) for problem in self.problems],
        }


@dataclass(frozen=True)
class Seen:
    """What is kept of one sample: where it is, what its pixels hash to, its size, what is said to be on it.

    label: -1 where there is none. truth: what the boxes and their classes, or the mask of classes, hash to, "" for a
    sample without either.
    """

    split: str
    file: str
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    label: int = -1
    truth: str = ""
    fault: str = ""
    notes: tuple[str, ...] = ()


def check(splits: dict[str, Dataset], progress: Progress | None = None, workers: int = 2) -> Report:
    """Read every sample of every split once, and report.

    Found are unreadable pictures, the same pixels twice within or across splits, under two labels or with other
    boxes or masks, classes that are missing or rare, tiny and very long pictures, the kinds of odd files; and
    whatever a data set's own `problems()` adds, an iterable of `Problem`.
    """
    items = [(name, part, i) for name, part in _without_masks(splits).items() for i in range(len(part))]
    seen = in_threads(_look, items, workers, progress)
    report = Report({name: len(part) for name, part in splits.items()})
    report.notes.update(note for one in seen for note in one.notes)
    for name, part in splits.items():
        report.problems += _of_split(name, part)
    report.problems += _of_classes(splits)
    report.problems += _of_pictures(seen)
    report.problems += _of_copies(seen, splits)
    return report


def _without_masks(splits: dict[str, Dataset]) -> dict[str, Dataset]:
    """The splits, of pictures with objects with boxes alone: their outlines were judged when they were loaded."""
    light = {name: getattr(part, "with_keys", None) for name, part in splits.items()}
    return {
        name: keep(("boxes", "box_labels")) if (keep := light[name]) else part
        for name, part in splits.items()
    }


def _look(item: tuple[str, Dataset, int]) -> Seen:
    split, part, index = item
    path = getattr(part, "path", None)
    file = str(path(index)) if path else f"{split}[{index}]"
    try:
        sample = part[index]
        notes = read_header(file).notes(sample.image.shape[2], suffix=path(index).suffix) if path else ()
    except DataError as error:
        return Seen(split, file, fault=str(error).removeprefix(f"{file}: "))
    height, width = sample.image.shape[:2]
    content = hashlib.sha1(repr((sample.image.shape, sample.image.dtype.str)).encode())
    content.update(np.ascontiguousarray(sample.image).data)
    label = int(sample.targets["label"]) if "label" in sample.targets else -1
    truth = _hash_of_truth(sample.targets) if label < 0 else ""
    return Seen(split, file, content.hexdigest(), (height, width), label, truth, notes=notes)


def _hash_of_truth(targets: dict[str, np.ndarray]) -> str:
    """The same for the same boxes and classes in any order, or for the same class at every pixel."""
    if "boxes" not in targets:
        return hashlib.sha1(targets["semantic"].tobytes()).hexdigest() if "semantic" in targets else ""
    rows = np.concatenate([targets["boxes"], targets["box_labels"][:, None]], 1)
    return hashlib.sha1(rows[np.lexsort(rows.T)].tobytes()).hexdigest()


def _of_split(name: str, part: Dataset) -> Iterator[Problem]:
    find: Callable[[], Iterable[Problem]] | None = getattr(part, "problems", None)
    own = list(find()) if find is not None else []
    told = {(problem.file, f"{problem.value}; {problem.remedy}") for problem in own}
    for file, reason in getattr(part, "skipped", ()):
        if (str(file), reason) not in told:
            yield _unreadable(str(file), reason)
    for remark in getattr(part, "remarks", ()):
        yield Problem("warning", "remark", name, remark, "see whether this was meant")
    yield from own


def _of_classes(splits: dict[str, Dataset]) -> Iterator[Problem]:
    for name, part in splits.items():
        counts = getattr(part, "class_counts", None)
        if counts is None or part.classes is None:
            continue
        by_class = dict(zip(part.classes.names, counts().tolist()))
        what = "objects" if "boxes" in part.keys and "label" not in part.keys else "pictures"
        # Small sets of objects or masks often lack one of many classes; a classifier cannot do without.
        level: Literal["error", "warning"] = (
            "error" if name == "train" and "label" in part.keys else "warning"
        )
        for absent in (class_name for class_name, count in by_class.items() if not count):
            yield Problem(level, "missing class", name, f"no {what} of class {absent!r}", "add some")
        there = {class_name: count for class_name, count in by_class.items() if count}
        if there and max(there.values()) > LONG * min(there.values()):
            most, least = max(there, key=there.__getitem__), min(there, key=there.__getitem__)
            value = f"{most!r} has {there[most]} {what}, {least!r} only {there[least]}"
            yield Problem("warning", "imbalance", name, value, f"add {what} of the rare class, or weight it")


def _of_pictures(seen: list[Seen]) -> Iterator[Problem]:
    for one in seen:
        height, width = one.size
        if one.fault:
            yield _unreadable(one.file, one.fault)
        elif min(one.size) < SMALL:
            yield Problem(
                "warning", "tiny", one.file, f"{width}x{height} pixels", "see whether it is a picture"
            )
        elif max(one.size) > LONG * min(one.size):
            yield Problem("warning", "very long", one.file, f"{width}x{height} pixels", "cut it into pieces")


def _of_copies(seen: list[Seen], splits: dict[str, Dataset]) -> Iterator[Problem]:
    """The same pixels more than once: under two labels, with other boxes, in two splits, or in one."""
    same: dict[str, list[Seen]] = defaultdict(list)
    for one in seen:
        if not one.fault:
            same[one.digest].append(one)
    for first, *others in same.values():
        for other in others:
            if other.label != first.label:
                labels = [_class_name(splits[one.split], one.label) for one in (first, other)]
                value = f"{labels[1]!r}, but {labels[0]!r} as {first.file}"
                yield Problem("error", "two labels", other.file, value, "keep the right one")
            elif other.truth != first.truth:
                what = "other boxes or classes" if "boxes" in splits[other.split].keys else "another mask"
                value = f"the same pixels as {first.file}, but {what}"
                yield Problem("error", "two annotations", other.file, value, "keep the right one")
            if other.split != first.split:
                value = f"in split {other.split!r}, the same pixels as {first.file} in {first.split!r}"
                remedy = "remove one: it makes the figures too good"
                yield Problem("warning", "leak", other.file, value, remedy)
            else:
                value = f"the same pixels as {first.file}"
                yield Problem("warning", "duplicate", other.file, value, "remove one")


def _unreadable(file: str, reason: str) -> Problem:
    value, _, remedy = reason.rpartition("; ")
    return Problem("error", "unreadable", file, value or reason, remedy if value else "leave it out")


def _class_name(part: Dataset, label: int) -> str:
    return part.classes.names[label] if part.classes is not None and label >= 0 else str(label)
