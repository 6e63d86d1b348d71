"""Write detection data in another format, without loss or with losses that were agreed to."""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from retinue.datasets import write_coco, write_masks, write_voc, write_yolo
from retinue.datasets.conversion import KINDS, Loss, Parts, picture_names, polygonised, refuse_turned, without
from retinue.datasets.formats import Dataset, describe, open_splits
from retinue.datasets.objects import ObjectPictures
from retinue.datasets.targets import DataError
from retinue.tools.options import UsageError, closest, make
from retinue.tools.progress import Log, counting
from retinue.tools.run_folder import write_json

WRITERS: dict[str, ModuleType] = {
    "coco": write_coco,
    "voc": write_voc,
    "yolo": write_yolo,
    "mask_folder": write_masks,
}
"""Format -> the module that writes it: losses(parts), picture_path(split, name), write(parts, out, names)."""


class ConversionError(RuntimeError):
    """What was written is not what was to be written."""


def convert(data: str = "", **settings: Any) -> dict[str, Any]:
    """Convert a data set; the options are `options.Convert`'s. Returns counts, what was said and what was lost.

    The new folder appears whole or not at all. It is read again at the end, and compared.
    Raises DataError: no detection data, losses that were not agreed to, a folder that is there already.
    """
    options, _ = make("convert", {"data": data, **settings})
    out = _checked(options)
    log = Log(sys.stderr if options.json == "-" else None)
    parts = _detection(options.data, open_splits(options.data, format=options.format))
    log(describe(dict(parts)))
    writer = WRITERS[options.to]
    parts = without(parts, set(options.drop))
    if "masks" not in options.drop:
        refuse_turned(parts)
    said = []
    if options.rle == "polygons":
        parts, report = polygonised(parts, writer.SINGLE_POLYGONS)
        said += [str(report)] * bool(report.changed)
    said += _agreed(options.to, writer.losses(parts), options.drop)
    for line in said:
        log(f"note     {line}")
    names = picture_names(parts, writer.TOGETHER, writer.BY_STEM)
    copied = _write(writer, parts, out, names, options.images, log)
    if options.images != "none":
        said.append(_read_back(parts, names, out, options.to))
        log(f"note     {said[-1]}")
    pictures, objects = _counts(parts)
    log(f"{pictures} pictures with {objects} objects are in {out}{copied}")
    result = {"out": str(out), "format": options.to, "pictures": pictures, "objects": objects, "notes": said}
    write_json(options.json, result)
    return result


def _checked(options: Any) -> Path:
    """The new folder. UsageError or DataError where the options do not go together."""
    for key, example in (("data", "a folder"), ("to", "coco"), ("out", "a new folder")):
        if not getattr(options, key):
            raise UsageError(
                f"convert needs {key}=, e.g. {key}={example}; `retinue convert --help` lists all"
            )
    for kind in options.drop:
        if kind not in KINDS:
            near = closest(kind, KINDS) or f"; choose of {', '.join(KINDS)}"
            raise UsageError(f"drop={kind}: nothing of that kind{near}")
    out, source = Path(options.out), Path(options.data)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"out={out}: is there already; name a new folder, or remove it")
    inner, outer = out.resolve(), source.resolve()
    if source.exists() and (inner.is_relative_to(outer) or outer.is_relative_to(inner)):
        raise DataError(f"out={out}: lies in the data, or they in it; name a folder beside {source}")
    return out


def _detection(source: str, splits: dict[str, Dataset]) -> Parts:
    parts = {name: part for name, part in splits.items() if isinstance(part, ObjectPictures)}
    if len(parts) < len(splits):
        keys = sorted(set().union(*(part.keys for part in splits.values())))
        raise DataError(
            f"{source}: has {', '.join(keys)} but no files with boxes; detection data are converted only"
        )
    return parts


def _agreed(to: str, losses: list[Loss], drop: list[str]) -> list[str]:
    """What is to be said. DataError for losses that the user did not agree to."""
    if refused := [loss for loss in losses if loss.kind and loss.kind not in drop]:
        kinds = ",".join(dict.fromkeys([*drop, *(loss.kind for loss in refused)]))
        reasons = "\n".join(f"  {loss.text}: drop={loss.kind} would {KINDS[loss.kind]}" for loss in refused)
        raise DataError(
            f"to={to} would lose something:\n{reasons}\nAgree with drop={kinds}, or choose another format."
        )
    return [loss.text for loss in losses]


def _write(
    writer: ModuleType, parts: Parts, out: Path, names: dict[str, list[str]], images: str, log: Log
) -> str:
    """Write everything beside the new folder, and rename it when it is whole. Says how pictures came along."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    copies = 0
    try:
        partial.chmod(0o777 & ~_umask())
        writer.write(parts, partial, names)
        if images != "none":
            with counting("pictures", log, sum(map(len, names.values()))) as step:
                for split, part in parts.items():
                    for i, name in enumerate(names[split]):
                        target = partial / writer.picture_path(split, name)
                        copies += _place(part.path(i), target, images)
                        step(1)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if images == "none":
        return f"; pictures stayed where they are: put them into {out / writer.picture_path('<split>', '')}"
    return f"; {copies} pictures were copied" if copies else "; pictures are hard links"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _place(source: Path, target: Path, how: str) -> bool:
    """Whether a picture had to be copied. Nothing is done where it is there: two splits may share one folder."""
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    source = Path(os.path.realpath(source))
    if how == "link":
        try:
            os.link(source, target)
            return False
        except OSError:
            pass  # another disk, or a file system without hard links
    shutil.copyfile(source, target)
    return True


def _read_back(parts: Parts, names: dict[str, list[str]], out: Path, to: str) -> str:
    """How far the boxes of the new files are from what was to be written. ConversionError where objects differ."""
    again = _detection(str(out), open_splits(str(out), format=to))
    writer = WRITERS[to]
    furthest = 0.0
    for name, part in parts.items():
        other = again.get(name)
        if other is None or len(other) != len(part):
            raise ConversionError(
                f"{out}: reads back without split {name!r} as it was; do not use it, and report this"
            )
        order = np.argsort([str(out / writer.picture_path(name, picture)) for picture in names[name]])
        back = np.argsort([str(other.path(i)) for i in range(len(other))])
        mine, theirs = part.annotations.select(order), other.annotations.select(back)
        if (np.diff(mine.offsets) != np.diff(theirs.offsets)).any():
            raise ConversionError(
                f"{out}: split {name!r} reads back with other objects; do not use it, and report this"
            )
        furthest = max(furthest, float(np.abs(mine.boxes - theirs.boxes).max(initial=0)))
    return f"read back: the same objects, boxes within {furthest:.2g} pixels"


def _counts(parts: Parts) -> tuple[int, int]:
    return sum(map(len, parts.values())), sum(len(part.annotations.labels) for part in parts.values())


def run(settings: dict[str, Any]) -> int:
    """The command."""
    convert(**settings)
    return 0
