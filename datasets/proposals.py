"""Region proposals by picture: the file that holds them, and a data set that brings them with its pictures.

A file is safetensors, flat arrays that are mapped into memory rather than read, so that loading processes share them:
`boxes` (r, 4) float32, x1 y1 x2 y2 in pixels of the upright picture, those of a picture together and the best first;
`offsets` (n + 1,) int64, picture i has the rows offsets[i]:offsets[i + 1]; `sizes` (n, 2) int32, height and width of
the pictures, 0 where unknown; `ids` uint8, the pictures' ids with a zero byte between them; `scores` (r,) float32, if
there are any. A list in COCO's results format is read too (`proposals_json`).
"""

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch

from retinue.datasets.geometry import clip_boxes
from retinue.datasets.proposals_json import read_boxes
from retinue.datasets.targets import DataError, Sample

FORMAT = "proposals 1"
MOST = 2000
"""So many of a picture's proposals are read, the best ones (Girshick 2015, section 2.3: about 2,000)."""
LONGEST_ID = 1024
CHUNK = 1 << 20
"""Boxes that are checked at once."""


class Regions(NamedTuple):
    """The proposals of one picture, the best first: boxes (r, 4) in its pixels, scores (r,) if there are any.

    size: the picture's height and width, 0 where unknown.
    """

    id: str
    size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class Proposals:
    """Proposals of many pictures, as in the file; `name` is the file's. ids: (n,) bytes.

    Raises DataError for arrays that do not fit each other, ids that are empty, too long or given twice, boxes that are
    not finite or whose corners are in the wrong order, and scores that ascend within a picture.
    """

    name: str
    ids: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray | None = None

    @classmethod
    def join(cls, name: str, pictures: Iterable[Regions]) -> "Proposals":
        """Those of many pictures, one by one; scores only where every picture has them."""
        rows = list(pictures)
        scores = [row.scores for row in rows if row.scores is not None]
        return cls(
            name,
            np.array([os.fsencode(row.id) for row in rows], np.bytes_),
            np.cumsum([0, *(len(row.boxes) for row in rows)], dtype=np.int64),
            np.array([row.size for row in rows], np.int32).reshape(-1, 2),
            _joined([row.boxes for row in rows]).reshape(-1, 4),
            _joined(scores) if rows and len(scores) == len(rows) else None,
        )

    def __post_init__(self) -> None:
        if what := self._fault():
            raise DataError(f"{self.name}: {what}; make the proposals anew")

    def __len__(self) -> int:
        return len(self.ids)

    def _fault(self) -> str:
        """What is wrong with the arrays; empty where nothing is."""
        n, offsets = len(self.ids), self.offsets
        if offsets.shape != (n + 1,) or self.sizes.shape != (n, 2) or self.boxes.shape[1:] != (4,):
            return f"{n} ids, {offsets.shape} offsets, {self.sizes.shape} sizes and {self.boxes.shape} boxes"
        if (
            offsets[0]
            or offsets[-1] != len(self.boxes)
            or offsets.min() < 0  # before the differences, which may overflow
            or (np.diff(offsets) < 0).any()
        ):
            return f"its offsets do not divide {len(self.boxes)} boxes among {n} pictures"
        if self.scores is not None and self.scores.shape != (len(self.boxes),):
            return f"{self.scores.shape} scores of {len(self.boxes)} boxes"
        if (self.sizes < 0).any():
            return f"a picture's size is {self.sizes.min()}"
        names = self.ids[self._order]
        if n and (names[1:] == names[:-1]).any():
            return f"the id {os.fsdecode(names[1:][names[1:] == names[:-1]][0])!r} is given twice"
        if n and (not names[0] or self.ids.itemsize > LONGEST_ID):
            return f"an id is empty, or longer than {LONGEST_ID} bytes"
        return self._wrong_box() or self._wrong_score()

    def _wrong_box(self) -> str:
        for start in range(0, len(self.boxes), CHUNK):
            part = self.boxes[start : start + CHUNK]
            good = np.isfinite(part).all(1) & (part[:, 2:] >= part[:, :2]).all(1)
            if not good.all():
                row = int(np.argmin(good))
                return f"{self._owner(start + row)} has the box {part[row].tolist()}, which is no x1 y1 x2 y2"
        return ""

    def _wrong_score(self) -> str:
        if self.scores is None or not len(self.scores):
            return ""
        wrong = ~np.isfinite(self.scores)
        ascends = np.append(False, np.diff(self.scores) > 0)
        ascends[self.offsets[:-1][np.diff(self.offsets) > 0]] = False  # the first of a picture
        if not (wrong | ascends).any():
            return ""
        row = int(np.argmax(wrong | ascends))
        return f"{self._owner(row)} has the score {self.scores[row]} where the best come first"

    def _owner(self, row: int) -> str:
        return repr(os.fsdecode(self.ids[np.searchsorted(self.offsets, row, "right") - 1]))

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.ids, kind="stable")

    def find(self, names: Sequence[str]) -> np.ndarray:
        """(n,) int64, the picture of each name: the one with that id or, of a path, with its longest ending (whole
        folders and the file) that is an id; -1 where there is none."""
        found = np.full(len(names), -1, np.int64)
        left = [(i, os.fsencode(name)) for i, name in enumerate(names)] if len(self) else []
        while left:
            keys = np.array([key for _, key in left], np.bytes_)
            place = np.searchsorted(self.ids, keys, sorter=self._order).clip(max=len(self) - 1)
            place = self._order[place]
            same = self.ids[place] == keys
            found[[i for (i, _), hit in zip(left, same) if hit]] = place[same]
            left = [(i, key.partition(b"/")[2]) for (i, key), hit in zip(left, same) if not hit]
            left = [(i, key) for i, key in left if key]
        return found

    def of(self, picture: int, size: tuple[int, int], most: int = MOST) -> np.ndarray:
        """The best `most` boxes (r, 4) float32 of a picture of (height, width), cut to it, empty ones left out.

        Raises DataError where they were made on a picture of another size.
        """
        made = tuple(self.sizes[picture].tolist())
        if 0 not in made and made != tuple(size):
            raise DataError(
                f"{self.name}: the proposals of {os.fsdecode(self.ids[picture])!r} were made on {made[1]}x{made[0]} "
                f"pixels, the picture has {size[1]}x{size[0]}; make them anew on these pictures"
            )
        start, stop = self.offsets[picture : picture + 2].tolist()
        boxes, kept, _ = clip_boxes(self.boxes[start : min(stop, start + most)], size)
        return boxes[kept]


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(
        [np.empty(0, np.float32), *(np.asarray(part, np.float32).ravel() for part in parts)]
    )


def write_proposals(path: str | Path, proposals: Proposals) -> None:
    """Write a file whole or not at all. DataError where that fails."""
    path = Path(path)
    arrays = {
        "ids": np.frombuffer(b"\0".join(proposals.ids.tolist()), np.uint8),
        "offsets": proposals.offsets,
        "sizes": proposals.sizes,
        "boxes": np.ascontiguousarray(proposals.boxes),
    }
    if proposals.scores is not None:
        arrays["scores"] = np.ascontiguousarray(proposals.scores)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        safetensors.numpy.save_file(arrays, temporary, {"retinue": FORMAT})
        temporary.chmod(0o644)  # it would be its owner's alone
        os.replace(temporary, path)
    except (safetensors.SafetensorError, OSError) as error:
        raise DataError(f"{path}: cannot be written ({error}); is the disk full?") from None
    finally:
        temporary.unlink(missing_ok=True)


KINDS = {"ids": "uint8", "offsets": "int64", "sizes": "int32", "boxes": "float32", "scores": "float32"}


def read_proposals(path: str | Path) -> Proposals:
    """The proposals of a file, ours or json. DataError where it is missing, damaged, or holds something else."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; `retinue propose` writes proposals")
    if path.suffix.lower() == ".json":
        return Proposals.join(
            str(path), [Regions(id, (0, 0), *rows) for id, rows in read_boxes(path).items()]
        )
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            says = (file.metadata() or {}).get("retinue")
        found = {name: tensor.numpy() for name, tensor in safetensors.torch.load_file(str(path)).items()}
    except Exception as error:  # a damaged or hostile file may fail in any way
        raise DataError(f"{path}: no whole file of proposals ({error}); make it anew") from None
    kinds = {name: str(array.dtype) for name, array in found.items()}
    if says != FORMAT or {"scores": "float32"} | kinds != KINDS:
        raise DataError(
            f"{path}: holds {(says or sorted(kinds))[:60]}, not {FORMAT!r}; give what `retinue propose` wrote"
        )
    ids = found["ids"].tobytes().split(b"\0") if found["ids"].size else []
    if any(len(id) > LONGEST_ID for id in ids):
        raise DataError(f"{path}: an id of more than {LONGEST_ID} bytes; make the proposals anew")
    flat = {name: array for name, array in found.items() if name != "ids"}
    return Proposals(str(path), np.array(ids, np.bytes_), **flat)


COPIES = {"with_keys", "with_classes", "with_size", "without", "select"}
"""Members of a data set that give another one."""


class WithProposals:
    """A data set whose samples carry `inputs["proposals"]`, (r, 4) float32, at most `most`; else as it was.

    A picture's proposals are found by its id, as `Proposals.find` does, or by its `image_id` where the data have such.
    Raises DataError naming pictures without an entry. A picture with an entry of no boxes has (0, 4).
    """

    def __init__(self, dataset: Any, proposals: Proposals, most: int = MOST) -> None:
        self.dataset, self.proposals, self.most = dataset, proposals, most
        if not hasattr(dataset, "id"):
            raise DataError(
                f"{proposals.name}: proposals are found by id, which {type(dataset).__name__} has not"
            )
        self.rows = proposals.find([dataset.id(i) for i in range(len(dataset))])
        missing = np.flatnonzero(self.rows < 0)
        if len(missing) and hasattr(dataset, "image_id"):
            self.rows[missing] = proposals.find([str(dataset.image_id(i)) for i in missing.tolist()])
            missing = np.flatnonzero(self.rows < 0)
        if len(missing):
            names = ", ".join(dataset.id(i) for i in missing[:5].tolist()) + ", ..." * (len(missing) > 5)
            raise DataError(
                f"{proposals.name}: no proposals for {len(missing)} of {len(dataset)} pictures: {names}; make them "
                "for these data: retinue propose MODEL data=... out=FILE"
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = self.dataset[index]
        height, width = sample.image.shape[:2]
        boxes = self.proposals.of(int(self.rows[index]), (height, width), self.most)
        return sample.with_(inputs={**sample.inputs, "proposals": boxes})

    @property
    def channels(self) -> int:
        """What the pictures are read as."""
        return self.dataset.channels

    @channels.setter
    def channels(self, channels: int) -> None:
        self.dataset = copy.copy(self.dataset)
        self.dataset.channels = channels

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):  # asked for before there is anything to ask
            raise AttributeError(name)
        value = getattr(self.dataset, name)
        if name not in COPIES:
            return value
        return lambda *given: WithProposals(value(*given), self.proposals, self.most)


def with_proposals(splits: Mapping[str, Any], proposals: Proposals, most: int = MOST) -> dict[str, Any]:
    """The splits with their pictures' proposals.

    Raises DataError where pictures have none, or where an entry would serve several: image ids that begin anew in
    every split, or bare file names.
    """
    wrapped = {name: WithProposals(split, proposals, most) for name, split in splits.items()}
    owners: dict[int, str] = {}
    for split in wrapped.values():
        for i, row in enumerate(split.rows.tolist()):
            one = str(split.path(i)) if hasattr(split, "path") else split.id(i)
            if (other := owners.setdefault(row, one)) != one:
                entry = os.fsdecode(proposals.ids[row])
                raise DataError(
                    f"{proposals.name}: the proposals of {entry!r} would be those of {other} and of {one}; "
                    "give each picture its own, by its path"
                )
    return wrapped
