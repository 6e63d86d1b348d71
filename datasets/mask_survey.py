"""Every mask of a data set is read once before it is used: what they hold, what that means, which are left out."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from retinue.datasets.mask_classes import Entries, MaskClasses, shown, stated
from retinue.datasets.mask_files import MaskSeen, look
from retinue.datasets.objects import divided
from retinue.datasets.scan import in_threads
from retinue.datasets.semantic import Pairs, SemanticPictures
from retinue.datasets.targets import IGNORE, DataError

WORKERS = 4
"""Threads that read masks."""

NAMED = 5
"""So many files are named in an error."""

SMEARED = 16
"""So many values without a meaning in one mask, most of them rare, come from resizing or compression."""

RARE = 1e-3
"""A value on a smaller share of its mask is rare."""

Made = TypeVar("Made", bound=SemanticPictures)


def open_pairs(
    make: type[Made], root: Path, listed: dict[str, Pairs], values: str | None, known: Entries | None = None
) -> dict[str, Made]:
    """The splits of pictures and masks, every mask read once; a split "all" is divided into train and val.

    What the masks' values mean is said by `values`, else by a file of classes in the root, else by `known` (what the
    format itself knows) where all values are in it; else the values themselves are the classes. A mask that cannot be
    used is `skipped` with its picture: unreadable, lossy, transparent, of another size, resized by interpolation.
    Raises DataError: values that mean nothing, by file with their numbers of pixels; masks of 0 and 255 of which
    nothing is said; palettes that give one number two colours; a split of which nothing is left.
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
    said, remarks = stated(root, values), list[str]()
    seen = _survey(root, listed, said is not None and said.by_colour)
    if said is not None and said.by_colour and not _all_known(seen, said):
        again = _survey(root, listed, False)  # for the table may be for people, and the masks hold numbers
        if _faults(again) <= _faults(seen) and _all_known(again, said.numbered()):
            remarks.append(f"masks hold numbers: they are taken for the lines of {said.source}, from 0")
            seen, said = again, said.numbered()
    _refuse_palettes(root, listed, seen)
    union = _union(seen)
    if set(union) - {0} == {IGNORE} and (said is None or not (said.by_colour or said.has(IGNORE))):
        first = next(root / pairs.masks[0] for pairs in listed.values() if pairs.masks)
        raise DataError(
            f"{first}: the masks hold {' and '.join(map(str, union))} alone, where 255 mostly means ignored; say "
            "what is meant: values=0:background,255:NAME"
        )
    if said is not None:
        return seen, MaskClasses.of(said), remarks
    if known is not None and _all_known(seen, known):
        remark = f"the classes are those of {known.source}, as all values fit; values= says otherwise"
        return seen, MaskClasses.of(known), [remark]
    if len(union) > IGNORE + 1:
        raise DataError(
            f"{root}: its masks hold {len(union)} different values, {union[0]} to {union[-1]}, and nothing says which "
            "are classes; say it by values=FILE of lines VALUE NAME"
        )
    remark = "the values in the masks are the classes' names; classes.txt (lines VALUE NAME) or values= gives others"
    return seen, MaskClasses.of_numbers(union or [0]), [remark]


def _survey(root: Path, listed: dict[str, Pairs], by_colour: bool) -> Seen:
    """What each mask holds. Beside masks in colours those that only hold greys are no numbers, but one colour."""

    def each(pair: tuple[str, str]) -> MaskSeen:
        return look(root / pair[0], root / pair[1], by_colour)

    both = {name: list(zip(pairs.pictures, pairs.masks)) for name, pairs in listed.items()}
    seen = {name: in_threads(each, pairs, WORKERS) for name, pairs in both.items()}
    coloured = next((one.fault for part in seen.values() for one in part if one.form == "colours"), "")
    if not coloured:
        return seen
    fault = f"its mask is in colours, and so are others that hold more than greys: {coloured}"
    return {
        name: [replace(one, fault=one.fault or fault) if one.form == "greys" else one for one in part]
        for name, part in seen.items()
    }


def _refuse_palettes(root: Path, listed: dict[str, Pairs], seen: Seen) -> None:
    """DataError where a number has one colour in one mask's palette and another in another's: a program chose the
    numbers for each file anew."""
    first: dict[int, tuple[int, str]] = {}
    for name, part in seen.items():
        for mask, one in zip(listed[name].masks, part):
            for code, colour in zip(one.codes.tolist(), one.colours.tolist()):
                before, other = first.setdefault(code, (colour, mask))
                if before != colour:
                    raise DataError(
                        f"{root / mask}: its palette makes {code} the colour {shown(colour, True)}, that of "
                        f"{root / other} {shown(before, True)}: numbers differ from file to file; write all masks "
                        "with one palette, or a table of the classes' colours (class_dict.csv: name,r,g,b)"
                    )


def _faults(seen: Seen) -> int:
    return sum(bool(one.fault) for part in seen.values() for one in part)


def _union(seen: Seen) -> list[int]:
    """The values that occur, sorted."""
    sound = [one for part in seen.values() for one in part if not one.fault]
    return sorted(set().union(*(one.codes.tolist() for one in sound)))


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
