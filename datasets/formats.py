"""Which format is this? Every module here that defines `splits(source)` is asked; a new format is one file."""

import contextlib
import difflib
import importlib
import inspect
import pkgutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

import retinue.datasets
from retinue.datasets.targets import KEYS, ClassMap, DataError, Sample


class Dataset(Protocol):
    """One split of a data set. `keys`: the target keys that its samples have; `classes`: None where it has none.

    A data set of files may also have `path(i)`, `without(bad)`, `skipped` and `remarks` (sentences for the user);
    one with classes `class_counts()` and `with_classes(classes)`; one with objects `empty`, the number of pictures
    without any; one with masks of classes `pixel_counts()` and `ignored`; one whose `semantic` has other classes than
    its objects `semantic_classes` and `with_semantic_classes(classes)`; one that knows more of what is wrong with it
    `problems()`. `splits`, `describe` and `check` use them where they are.
    """

    keys: frozenset[str]

    @property
    def classes(self) -> ClassMap | None: ...  # noqa: D102

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def format_modules() -> dict[str, ModuleType]:
    """Format name (its module's last part) -> the module, for each that defines `splits(source)`.

    A module may also name the most target keys that its data have, `TARGETS`. Where masks may need an explanation,
    its `splits` takes `values`.
    """
    names = sorted(info.name for info in pkgutil.iter_modules(retinue.datasets.__path__))
    modules = {name: importlib.import_module(f"retinue.datasets.{name}") for name in names}
    return {name: module for name, module in modules.items() if callable(getattr(module, "splits", None))}


def open_splits(
    source: str,
    format: str | None = None,
    keys: frozenset[str] = frozenset(),
    values: str | None = None,
) -> dict[str, Dataset]:
    """The splits of a data set, "train", "val", "test" as far as it has them, in whatever format it is.

    format: the name of the format, where more than one would do.
    keys: the target keys that are needed. Of several formats that fit, those count that give them all; without `keys`
    a folder is opened for its boxes or labels rather than for masks of classes.
    values: what the values in masks mean, "0:background,255:object,11:ignore" or a file of such lines, where that is
    not in the data (`mask_classes.stated`).
    Raises DataError: no format fits, or more than one; `values` for a format without such masks.
    """
    modules = format_modules()
    if format is not None and format not in modules:
        raise DataError(
            f"format={format!r} is unknown{_like(format, list(modules))}; known are {list(modules)}"
        )
    asked = {format: modules[format]} if format else modules
    if values is not None:
        asked = {name: module for name, module in asked.items() if _takes_values(module)}
        if not asked:
            raise DataError(f"values={values}: format={format} has no masks of classes; leave values= out")
    found: dict[str, dict[str, Dataset]] = {}
    faults: list[DataError] = []
    for candidates in _rounds(asked, keys):
        for name, module in candidates.items():
            try:
                if splits := module.splits(source, values) if values is not None else module.splits(source):
                    found[name] = splits
            except DataError as error:
                faults.append(error)  # the last word only if no other format fits
        if found:
            break
    complete = {name for name, splits in found.items() if keys <= next(iter(splits.values())).keys}
    if not complete and (faults or not found):
        raise faults[0] if faults else DataError(_nothing_found(source, asked, values))
    found = {name: splits for name, splits in found.items() if name in complete or not complete}
    if len(found) > 1:
        raise DataError(f"{source}: could be {' or '.join(found)}; choose one with format=NAME")
    (splits,) = found.values()
    return splits


def _without_values(source: str) -> list[str]:
    """The formats that a source is in among those that take no `values`."""
    found = []
    for name, module in format_modules().items():
        with contextlib.suppress(DataError):
            if not _takes_values(module) and module.splits(source):
                found.append(name)
    return found


def _takes_values(module: ModuleType) -> bool:
    return "values" in inspect.signature(module.splits).parameters


def _rounds(modules: dict[str, ModuleType], keys: frozenset[str]) -> list[dict[str, ModuleType]]:
    """The formats to ask first, and those to ask where none of these fits: reading many masks in vain takes time."""
    targets = {name: getattr(module, "TARGETS", frozenset(KEYS)) for name, module in modules.items()}
    first = {name for name, own in targets.items() if (keys <= own if keys else own != {"semantic"})}
    return [{n: m for n, m in modules.items() if (n in first) == likely} for likely in (True, False)]


def evaluation_split(splits: dict[str, Dataset]) -> str:
    """The name of the split to evaluate on: "val" if there is one, else "test". DataError where neither is."""
    for name in ("val", "test"):
        if name in splits:
            return name
    raise DataError(f"no split val or test to evaluate on, only {list(splits)}; add one")


def numbered(part: Dataset, classes: ClassMap, semantic: bool = False) -> Dataset:
    """A split with the indices of other classes, a trained model's: of `semantic`, or of labels and boxes.

    Raises DataError where the classes differ and cannot be matched.
    """
    apart = semantic and hasattr(part, "semantic_classes")
    own: ClassMap | None = getattr(part, "semantic_classes" if apart else "classes")
    if own is None or (own.names, own.ids) == (classes.names, classes.ids):
        return part
    method = "with_semantic_classes" if apart else "with_classes"
    renumber: Callable[[ClassMap], Dataset] | None = getattr(part, method, None)
    if renumber is not None:
        return renumber(classes)
    missing = [n for n in own.names if n not in classes.names]
    extra = [n for n in classes.names if n not in own.names]
    raise DataError(
        f"the data have other classes than the model: only in the data {missing}, only in the model {extra}, "
        f"order in the data {list(own.names)}; make them the same"
    )


def _nothing_found(source: str, modules: dict[str, ModuleType], values: str | None) -> str:
    path = Path(source).expanduser().absolute()
    if values is not None and (others := _without_values(source)):
        return f"values={values}: {source} is {' or '.join(others)}, which has no masks of classes; leave values= out"
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
    if hasattr(part, "pixel_counts"):
        return _shares(part)
    counts: Callable[[], np.ndarray] | None = getattr(part, "class_counts", None)
    if counts is not None and part.classes is not None:
        text = ": " + _shortened([f"{n} {c}" for n, c in zip(part.classes.names, counts())])
    if empty := getattr(part, "empty", 0):
        text += f"; {empty} without objects"
    return text


def _shares(part: Any) -> str:
    """The parts of the pixels that are of each class, and the part that is ignored."""
    counts = part.pixel_counts()
    total = max(int(counts.sum()) + part.ignored, 1)
    shares = [f"{name} {count / total:.2%}" for name, count in zip(part.classes.names, counts.tolist())]
    return f": {_shortened(shares)}; ignored {part.ignored / total:.2%}"


def _shortened(words: list[str], most: int = 20) -> str:
    return ", ".join(words[:most]) + (f", ... ({len(words) - most} more)" if len(words) > most else "")
