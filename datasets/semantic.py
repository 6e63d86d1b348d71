"""Pictures with a mask each, whose pixels are classes: what every format of semantic segmentation ends in."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import numpy as np

from retinue.datasets.mask_checks import doubts
from retinue.datasets.mask_classes import Entries, MaskClasses, shown, stated
from retinue.datasets.mask_files import MaskSeen, look, read_codes, upright
from retinue.datasets.objects import divided
from retinue.datasets.picture_files import PictureFiles, as_bytes
from retinue.datasets.problem import Problem
from retinue.datasets.scan import in_threads
from retinue.datasets.targets import IGNORE, ClassMap, DataError, Sample

WORKERS = 4
"""Threads that read masks."""

NAMED = 5
"""So many files are named in an error."""

SMEARED = 16
"""So many values without a meaning in one mask, most of them rare, come from resizing or compression."""

RARE = 1e-3
"""A value on a smaller share of its mask is rare."""


class Pairs(NamedTuple):
    """The pictures and the masks of one split as a format found them, relative to the root with "/".

    skipped: (picture file, reason) of those without a mask. found: what else is wrong. remarks: for the user.
    """

    pictures: list[str]
    masks: list[str]
    skipped: list[tuple[Path, str]]
    found: list[Problem]
    remarks: list[str]


class SemanticPictures(PictureFiles):
    """The pictures of one split with a class at every pixel.

    pairs: those whose masks can be read. seen: what each mask holds. coding: what its values mean; all that occur are
    known to it. Indexing gives a `Sample` with `semantic` (h, w) int64; it raises PictureError where a file cannot be
    read, and DataError where one changed since it was looked at.
    """

    keys = frozenset({"semantic"})

    def __init__(
        self, root: Path, split: str, pairs: Pairs, seen: list[MaskSeen], coding: MaskClasses
    ) -> None:
        super().__init__(root, split, pairs.pictures, coding.classes)
        self.skipped += pairs.skipped
        self.remarks += pairs.remarks
        self.coding = coding
        self._problems = list(pairs.found)
        self._masks = as_bytes(pairs.masks)
        self._frames = np.array([one.frame for one in seen], np.uint8)
        self._codes = np.unique(np.concatenate([one.codes for one in seen]))
        self._pixels = np.zeros((len(seen), len(self._codes)), np.int64)
        for row, one in zip(self._pixels, seen):
            row[np.searchsorted(self._codes, one.codes)] = one.counts
        self._mixed = np.array([one.mixed for one in seen], np.float32)

    def mask_path(self, index: int) -> Path:
        """The mask file of a sample."""
        return self.root / bytes(self._masks[index]).decode("utf-8", "surrogateescape")

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            index += len(self)
        image, path = self.read(index), self.mask_path(index)
        codes = upright(read_codes(path, self.coding.by_colour), int(self._frames[index]))
        known = self.coding.known(codes)
        if codes.shape != image.shape[:2] or not known.all():
            what = f"is of another size than {self.path(index)}"
            if codes.shape == image.shape[:2]:
                what = f"holds {shown(int(codes[~known][0]), self.coding.by_colour)} now"
            raise DataError(f"{path}: {what}; the file changed: start again")
        return Sample(self.id(index), image, {"semantic": self.coding.index(codes)})

    def pixel_counts(self) -> np.ndarray:
        """(classes,) int64, the number of pixels of each class in all pictures."""
        return self._by_class(self._pixels.sum(0))

    def class_counts(self) -> np.ndarray:
        """(classes,) int64, the number of pictures that show each class."""
        index = self._index()
        shows = [(self._pixels[:, index == i] > 0).any(1).sum() for i in range(len(self.classes))]
        return np.array(shows, np.int64)

    @property
    def ignored(self) -> int:
        """The number of pixels that do not count."""
        return int(self._pixels[:, self._index() == IGNORE].sum())

    def _index(self) -> np.ndarray:
        return self.coding.index(self._codes)

    def _by_class(self, counts: np.ndarray) -> np.ndarray:
        return np.bincount(self._index(), counts, IGNORE + 1)[: len(self.classes)].astype(np.int64)

    def problems(self) -> Iterator[Problem]:
        """What was wrong with the masks, and what looks doubtful in those that are left."""
        yield from self._problems
        turned = np.flatnonzero(self._frames > 1).tolist()
        for i in turned:
            value = f"EXIF orientation {self._frames[i]} turns the picture; its mask, made without, is turned with it"
            yield Problem("warning", "EXIF orientation", str(self.path(i)), value, "look at it drawn")
        for i in np.flatnonzero(self._mixed).tolist():
            value = f"values lie between their neighbours' on {self._mixed[i]:.0%} of the borders: resized?"
            yield Problem("warning", "in-between values", str(self.mask_path(i)), value, "look at it drawn")
        ignored = self._pixels[:, self._index() == IGNORE].sum(1) / self._pixels.sum(1)
        paths = [str(self.mask_path(i)) for i in np.flatnonzero(ignored == 1).tolist()]
        yield from doubts(self.split, self.coding, self._codes, self._pixels.sum(0), paths)

    def select(self, kept: np.ndarray) -> Self:
        """A copy with only the samples of a mask (n,) bool or of an array of indices."""
        chosen = super().select(kept)
        chosen._masks, chosen._frames = self._masks[kept], self._frames[kept]
        chosen._pixels, chosen._mixed = self._pixels[kept], self._mixed[kept]
        return chosen

    def with_classes(self, classes: ClassMap) -> Self:
        """A copy with the class indices of another map, a model's for instance, matched by name.

        Raises DataError naming the classes that occur here and that the other map lacks.
        """
        used = self.pixel_counts() > 0
        missing = [
            name for name, there in zip(self.classes.names, used) if there and name not in classes.names
        ]
        if missing:
            raise DataError(
                f"{self.root}: the classes {missing} of split {self.split!r} are not among {list(classes.names)}; "
                "rename them, or ignore them: values=VALUE:ignore,..."
            )
        chosen = copy.copy(self)
        chosen.classes, chosen.coding = classes, self.coding.with_classes(classes)
        return chosen


Made = TypeVar("Made", bound=SemanticPictures)


def open_pairs(
    make: type[Made], root: Path, listed: dict[str, Pairs], values: str | None, known: Entries | None = None
) -> dict[str, Made]:
    """The splits of pictures and masks, every mask read once; a split "all" is divided into train and val.

    What the masks' values mean is said by `values`, else by a file of classes in the root, else by `known` (what the
    format itself knows) where all values are in it; else the values themselves are the classes. A mask that cannot be
    used is `skipped` with its picture: unreadable, lossy, transparent, of another size, resized by interpolation.
    Raises DataError: values that mean nothing, by file with their numbers of pixels; masks of 0 and 255 of which
    nothing is said; a split of which nothing is left.
    """
    if len(listed) > 1 and "test" in listed and not listed["test"].masks:
        listed = {name: pairs for name, pairs in listed.items() if name != "test"}  # often kept secret
    seen, coding, remarks = _meaning(root, listed, values, known)
    parts = {name: _usable(root, name, pairs, seen[name], coding) for name, pairs in listed.items()}
    _refuse_unknown(root, parts, coding)
    found = {name: make(root, name, pairs, good, coding) for name, (pairs, good) in parts.items()}
    for part in found.values():
        part.remarks += remarks
    return divided(found["all"]) if "all" in found else found


Seen = dict[str, list[MaskSeen]]
"""What the masks of each split hold."""


def _meaning(
    root: Path, listed: dict[str, Pairs], values: str | None, known: Entries | None
) -> tuple[Seen, MaskClasses, list[str]]:
    """What the masks hold, what it means, and remarks on that."""
    said = stated(root, values)
    seen = _survey(root, listed, said is not None and said.by_colour)
    if said is not None and said.by_colour and not _all_known(seen, said):
        again = _survey(root, listed, False)
        if _all_known(again, said.numbered()):  # a table for people to read, beside masks of numbers
            remark = f"masks hold numbers: they are taken for the lines of {said.source}, from 0"
            return again, MaskClasses.of(said.numbered()), [remark]
    union = _union(seen)
    remarks: list[str] = []
    if said is None and known is not None and _all_known(seen, known):
        said, remarks = (
            known,
            [f"the classes are those of {known.source}, as all values fit; values= says otherwise"],
        )
    if set(union) - {0} == {IGNORE} and (said is None or not (said.by_colour or said.has(IGNORE))):
        first = next(root / pairs.masks[0] for pairs in listed.values() if pairs.masks)
        raise DataError(
            f"{first}: the masks hold {' and '.join(map(str, union))} alone, where 255 mostly means ignored; say "
            "what is meant: values=0:background,255:NAME"
        )
    if said is not None:
        return seen, MaskClasses.of(said), remarks
    if len(union) > IGNORE + 1:
        raise DataError(
            f"{root}: its masks hold {len(union)} different values, {union[0]} to {union[-1]}, and nothing says which "
            "are classes; say it by values=FILE of lines VALUE NAME"
        )
    remark = "the values in the masks are the classes' names; classes.txt (lines VALUE NAME) or values= gives others"
    return seen, MaskClasses.of_numbers(union or [0]), [remark]


def _survey(root: Path, listed: dict[str, Pairs], by_colour: bool) -> Seen:
    def each(pair: tuple[str, str]) -> MaskSeen:
        return look(root / pair[0], root / pair[1], by_colour)

    both = {name: list(zip(pairs.pictures, pairs.masks)) for name, pairs in listed.items()}
    return {name: in_threads(each, pairs, WORKERS) for name, pairs in both.items()}


def _union(seen: Seen) -> list[int]:
    """The values that occur, sorted."""
    return sorted(set().union(*(one.codes.tolist() for part in seen.values() for one in part)))


def _all_known(seen: Seen, said: Entries) -> bool:
    union = _union(seen)
    return bool(union) and bool(MaskClasses.of(said).known(np.array(union)).all())


def _usable(
    root: Path, split: str, pairs: Pairs, seen: list[MaskSeen], coding: MaskClasses
) -> tuple[Pairs, list[MaskSeen]]:
    """The pairs that can be used; the others are `skipped`. DataError where nothing is left."""
    faults = [one.fault or _smeared(root / mask, one, coding) for mask, one in zip(pairs.masks, seen)]
    skipped = [(root / path, fault) for path, fault in zip(pairs.pictures, faults) if fault]
    kept = [i for i, fault in enumerate(faults) if not fault]
    pairs = pairs._replace(
        pictures=[pairs.pictures[i] for i in kept],
        masks=[pairs.masks[i] for i in kept],
        skipped=[*pairs.skipped, *skipped],
    )
    if not kept:
        file, reason = pairs.skipped[0] if pairs.skipped else (root, "there is none")
        raise DataError(
            f"{root}: no picture of split {split!r} has a mask that can be used; the first: {file}: {reason}"
        )
    return pairs, [seen[i] for i in kept]


def _smeared(mask: Path, seen: MaskSeen, coding: MaskClasses) -> str:
    """Why a mask with many values that mean nothing cannot be used; "" where they are few, or frequent."""
    unknown = seen.counts[~coding.known(seen.codes)]
    if len(unknown) < SMEARED or np.median(unknown) > RARE * seen.counts.sum():
        return ""
    reason = (
        f"its mask {mask} has {len(unknown)} values that {coding.source} does not name, most on few pixels"
    )
    return f"{reason}: resized or compressed; resize by nearest neighbour only, and write PNG"


def _refuse_unknown(root: Path, parts: dict[str, tuple[Pairs, list[MaskSeen]]], coding: MaskClasses) -> None:
    """DataError naming the masks with values that mean nothing."""
    lines: list[str] = []
    strange: set[int] = set()
    for pairs, seen in parts.values():
        for mask, one in zip(pairs.masks, seen):
            unknown = np.flatnonzero(~coding.known(one.codes))
            if not len(unknown):
                continue
            strange |= set(one.codes[unknown].tolist())
            most = unknown[np.argsort(-one.counts[unknown], kind="stable")][:NAMED]
            words = [coding.unknown(int(one.codes[i]), int(one.counts[i])) for i in most]
            rest = f" and {len(unknown) - len(most)} more" if len(unknown) > len(most) else ""
            lines.append(f"  {root / mask}: {', '.join(words)}{rest}")
    if not lines:
        return
    rest = f"\n  and {len(lines) - NAMED} masks more" if len(lines) > NAMED else ""
    named = "\n".join(lines[:NAMED]) + rest
    raise DataError(
        f"{len(lines)} masks have values that {coding.source} does not name:\n{named}\n"
        f"correct the masks, or say what these values mean{_hint(parts, coding, strange)}"
    )


def _hint(parts: dict[str, tuple[Pairs, list[MaskSeen]]], coding: MaskClasses, strange: set[int]) -> str:
    """How to say what values mean."""
    if coding.by_colour:
        return f" in {coding.source}"
    counted = list(range(len(coding.classes)))
    occur = _union({name: seen for name, (_, seen) in parts.items()})
    from_one = strange == {len(counted)} and 0 not in occur and list(coding.classes.ids) == counted
    question = ": are the classes counted from 1? write VALUE NAME in each line" if from_one else ""
    return f"{question}; values=FILE of lines VALUE NAME says it, with {min(strange)} ignore for what does not count"
