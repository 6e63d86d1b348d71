"""Which format is this? Every module here that defines `splits(source)` is asked; a new format is one file."""

import difflib
import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

import retinue.datasets
from retinue.datasets.targets import ClassMap, DataError, Sample


class Dataset(Protocol):
    """One split of a data set. `keys`: the target keys that its samples have; `classes`: None where it has none.

    A data set of files may also have `path(i)`, `without(bad)`, `skipped` and `remarks` (sentences for the user);
    one with classes `class_counts()` and `with_classes(classes)`; one with objects `empty`, the number of pictures
    without any; one that knows more of what is wrong with it `problems()`. `splits`, `describe` and `check` use
    them where they are.
    """

    keys: frozenset[str]

    @property
    def classes(self) -> ClassMap | None: ...  # noqa: D102

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def format_modules() -> dict[str, ModuleType]:
    """Format name (its module's last part) -> the module, for each that defines `splits(source)`."""
    names = sorted(info.name for info in pkgutil.iter_modules(retinue.datasets.__path__))
    modules = {name: importlib.import_module(f"retinue.datasets.{name}") for name in names}
    return {name: module for name, module in modules.items() if callable(getattr(module, "splits", None))}


def open_splits(
    source: str, classes: ClassMap | None = None, format: str | None = None
) -> dict[str, Dataset]:
    """The splits of a data set, "train", "val", "test" as far as it has them, in whatever format it is.

    classes: the classes to number by, a trained model's for instance; without it the data's own are used.
    format: the name of the format, where more than one would do.
    Raises DataError: no format fits, or more than one; the classes differ and cannot be matched.
    """
    modules = format_modules()
    if format is not None and format not in modules:
        raise DataError(
            f"format={format!r} is unknown{_like(format, list(modules))}; known are {list(modules)}"
        )
    asked = {format: modules[format]} if format else modules
    found, faults = {}, []
    for name, module in asked.items():
        try:
            if splits := module.splits(source):
                found[name] = splits
        except DataError as error:
            faults.append(error)  # the last word only if no other format fits
    if not found:
        raise faults[0] if faults else DataError(_nothing_found(source, asked))
    if len(found) > 1:
        raise DataError(f"{source}: could be {' or '.join(found)}; choose one with format=NAME")
    (splits,) = found.values()
    return {name: _numbered(name, part, classes) for name, part in splits.items()} if classes else splits


def evaluation_split(splits: dict[str, Dataset]) -> str:
    """The name of the split to evaluate on: "val" if there is one, else "test". DataError where neither is."""
    for name in ("val", "test"):
        if name in splits:
            return name
    raise DataError(f"no split val or test to evaluate on, only {list(splits)}; add one")


def _numbered(name: str, part: Dataset, classes: ClassMap) -> Dataset:
    """The split with the indices of the given classes."""
    own = part.classes
    if own is None or (own.names, own.ids) == (classes.names, classes.ids):
        return part
    renumber: Callable[[ClassMap], Dataset] | None = getattr(part, "with_classes", None)
    if renumber is not None:
        return renumber(classes)
    missing = [n for n in own.names if n not in classes.names]
    extra = [n for n in classes.names if n not in own.names]
    raise DataError(
        f"split {name!r} has other classes than asked for: only in the data {missing}, only asked for {extra}, "
        f"order in the data {list(own.names)}; make them the same"
    )


def _nothing_found(source: str, modules: dict[str, ModuleType]) -> str:
    path = Path(source).expanduser().absolute()
    layouts = "\n".join(
        f"  {name}: {(m.__doc__ or '').strip().splitlines()[0]}" for name, m in modules.items()
    )
    if path.is_dir():
        inside = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
        there = f"{path} holds {inside[:12] or 'nothing'}{' ...' if len(inside) > 12 else ''}"
    elif path.exists():
        there = f"{path} is a file of {path.stat().st_size} bytes"
    else:
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        there = f"{path} does not exist{_like(path.name, beside)}"
    return f"{source}: no data set found; {there}. Looked for:\n{layouts}\nCorrect the path or the layout."


def _like(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word, words, 1)
    return f", did you mean {close[0]!r}?" if close else ""


def describe(splits: dict[str, Dataset]) -> str:
    """What was found, in a few lines: format, classes with ids, pictures a split and a class, remarks."""
    first = next(iter(splits.values()))
    lines = [f"format   {type(first).__module__.rpartition('.')[2]}, targets {', '.join(sorted(first.keys))}"]
    if (classes := first.classes) is not None:
        lines.append(f"classes  {len(classes)}: {_shortened(_class_names(classes))}")
    remarks: Counter[str] = Counter()
    for name, part in splits.items():
        lines.append(f"{name:8} {len(part)} pictures{_counts(part)}")
        remarks.update(getattr(part, "remarks", ()))
        if skipped := getattr(part, "skipped", ()):
            lines.append(
                f"         {len(skipped)} skipped: {_shortened([f'{p} ({why})' for p, why in skipped], 3)}"
            )
    lines += [f"note     {remark}" for remark in remarks]
    return "\n".join(lines)


def _class_names(classes: ClassMap) -> list[str]:
    plain = classes.ids in (classes.names, tuple(range(len(classes)))) or [*map(str, classes.ids)] == [
        *classes.names
    ]
    return [
        f"{i} {n}" if plain else f"{i} {n} (id {id})"
        for i, (n, id) in enumerate(zip(classes.names, classes.ids))
    ]


def _counts(part: Dataset) -> str:
    text = ""
    counts: Callable[[], np.ndarray] | None = getattr(part, "class_counts", None)
    if counts is not None and part.classes is not None:
        text = ": " + _shortened([f"{n} {c}" for n, c in zip(part.classes.names, counts())])
    if empty := getattr(part, "empty", 0):
        text += f"; {empty} without objects"
    return text


def _shortened(words: list[str], most: int = 20) -> str:
    return ", ".join(words[:most]) + (f", ... ({len(words) - most} more)" if len(words) > most else "")
