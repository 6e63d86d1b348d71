"""The outlines of a split's objects as they were written, in flat arrays: polygons and run-length codes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from retinue.datasets.rle import fills, run_lengths

Written = list[list[float]] | dict[str, Any] | None
"""What COCO writes as `segmentation`: rings [x, y, x, y, ...], {"size": [h, w], "counts": text or run lengths},
or None where an object has no outline."""


@dataclass(frozen=True)
class Segments:
    """One outline an object: polygons, a compressed or an uncompressed run-length code, or nothing.

    points: (points, 2) float64, x y. rings: (rings + 1,) int64, ring r is points[rings[r]:rings[r + 1]].
    text: (bytes,) uint8, COCO's compressed codes one after the other. counts: (runs,) int64, uncompressed codes.
    sizes: (objects, 2) int32, the height and width that a code states, 0 where there is none.
    ring_offsets, text_offsets, count_offsets: (objects + 1,) int64, what belongs to each object; at most one of
    the three is not empty. Holes exist in run-length codes only: an object's polygons are a union, as in COCO.
    """

    points: np.ndarray
    rings: np.ndarray
    text: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray
    ring_offsets: np.ndarray
    text_offsets: np.ndarray
    count_offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    @classmethod
    def of(cls, written: Iterable[Written]) -> "Segments":
        """From COCO's `segmentation` values, which `fault` found sound."""
        rings: list[np.ndarray] = []
        texts: list[bytes] = []
        counts: list[np.ndarray] = []
        sizes: list[tuple[int, int]] = []
        numbers: list[tuple[int, int, int]] = []
        for one in written:
            own = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in one] if type(one) is list else []
            code = one if isinstance(one, dict) else {"size": (0, 0), "counts": []}
            runs = code["counts"]
            text = runs.encode("ascii") if isinstance(runs, str) else runs if isinstance(runs, bytes) else b""
            runs = np.asarray([] if text else runs, np.int64)
            rings += own
            texts.append(text)
            counts.append(runs)
            sizes.append(tuple(code["size"]))
            numbers.append((len(own), len(text), len(runs)))
        ends = np.cumsum([(0, 0, 0), *numbers], 0, dtype=np.int64)
        return cls(
            points=np.concatenate([np.zeros((0, 2)), *rings]),
            rings=np.cumsum([0, *map(len, rings)], dtype=np.int64),
            text=np.frombuffer(b"".join(texts), np.uint8),
            counts=np.concatenate([np.zeros(0, np.int64), *counts]),
            sizes=np.array(sizes, np.int32).reshape(-1, 2),
            ring_offsets=ends[:, 0].copy(),
            text_offsets=ends[:, 1].copy(),
            count_offsets=ends[:, 2].copy(),
        )

    @property
    def drawn(self) -> np.ndarray:
        """(objects,) bool, which objects have an outline."""
        parts = (self.ring_offsets, self.text_offsets, self.count_offsets)
        return np.any([np.diff(offsets) > 0 for offsets in parts], 0)

    def written(self, index: int) -> Written:
        """The outline of one object as COCO's `segmentation`, just as it came."""
        first, last = self.ring_offsets[index : index + 2]
        if last > first:
            return [
                self.points[self.rings[r] : self.rings[r + 1]].ravel().tolist() for r in range(first, last)
            ]
        size = self.sizes[index].tolist()
        text = self.text[slice(*self.text_offsets[index : index + 2])]
        if len(text):
            return {"size": size, "counts": text.tobytes().decode("ascii")}
        counts = self.counts[slice(*self.count_offsets[index : index + 2])]
        return {"size": size, "counts": counts.tolist()} if len(counts) else None

    def rle(self, index: int, height: int, width: int) -> dict[str, Any]:
        """One object as a compressed COCO code ("counts" in bytes), drawn in a picture of this size."""
        one = self.written(index)
        if one is None:
            return {"size": [height, width], "counts": coco_mask.encode(_nothing(height, width))["counts"]}
        if isinstance(one, list):
            return coco_mask.merge(coco_mask.frPyObjects(one, height, width))
        if isinstance(one["counts"], list):
            return coco_mask.frPyObjects(one, height, width)
        return {"size": one["size"], "counts": one["counts"].encode("ascii")}

    def decode(self, rows: Sequence[int] | np.ndarray, height: int, width: int) -> np.ndarray:
        """(n, height, width) bool: the masks of some objects, as pycocotools draws them; none where none is."""
        masks = np.zeros((len(rows), height, width), bool)
        for mask, row in zip(masks, rows):
            mask.T[:] = _drawn(self._runs(int(row), height, width)).reshape(width, height)
        return masks

    def paint(self, canvas: np.ndarray, rows: Sequence[int] | np.ndarray, values: np.ndarray) -> None:
        """Write each object's value over its pixels of a canvas (h, w): the larger ones first, so that the smaller lie
        on top, of equals the later."""
        height, width = canvas.shape
        outlines = [self._runs(int(row), height, width) for row in rows]
        areas = np.array([runs[1::2].sum() for runs in outlines])
        for i in np.argsort(-areas, kind="stable").tolist():
            canvas.T[_drawn(outlines[i]).reshape(width, height)] = values[i]

    def _runs(self, row: int, height: int, width: int) -> np.ndarray:
        runs = run_lengths(self.rle(row, height, width)["counts"])
        assert runs is not None  # `fault` saw to it
        return runs

    def area(self, index: int, height: int, width: int) -> float:
        """The pixels that an object covers in a picture of this size."""
        return float(coco_mask.area(self.rle(index, height, width)))

    def select(self, kept: np.ndarray) -> "Segments":
        """Only the objects of a mask (n,) bool or of an array of indices."""
        rows = np.flatnonzero(kept) if kept.dtype == bool else kept
        rings, ring_offsets = gather(self.ring_offsets, rows)
        points, ends = gather(self.rings, rings)
        text, text_offsets = gather(self.text_offsets, rows)
        counts, count_offsets = gather(self.count_offsets, rows)
        return Segments(
            self.points[points], ends, self.text[text], self.counts[counts], self.sizes[rows],
            ring_offsets, text_offsets, count_offsets,
        )  # fmt: skip

    def scaled(self, factors: np.ndarray) -> "Segments":
        """With each object's polygons multiplied by its (x, y) factors (objects, 2)."""
        rings = np.repeat(np.arange(len(self)), np.diff(self.ring_offsets))
        objects = np.repeat(rings, np.diff(self.rings))
        return replace(self, points=self.points * factors[objects])


def gather(offsets: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that belong to the chosen groups, one after the other, and the offsets of the result.

    offsets: (groups + 1,) int64; chosen: (n,) indices of groups -> rows (m,) int64, offsets (n + 1,) int64.
    """
    chosen = np.asarray(chosen, np.int64)
    sizes = offsets[chosen + 1] - offsets[chosen]
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return np.repeat(offsets[chosen] - ends[:-1], sizes) + np.arange(ends[-1]), ends


def fault(written: Any, height: int, width: int) -> str:
    """What is wrong with a `segmentation` value in a picture of this size; "" where it can be drawn.

    Checked before pycocotools sees it, whose C code trusts its input.
    """
    if written is None:
        return ""
    if isinstance(written, list):
        return next((text for ring in written if (text := _ring_fault(ring, height, width))), "")
    if not isinstance(written, dict):
        return f"segmentation {str(written)[:60]!r} is neither polygons nor a run-length code"
    size, counts = written.get("size"), written.get("counts")
    if size != [height, width]:
        return f"run-length code of size {str(size)[:40]} in a picture of [{height}, {width}]"
    if isinstance(counts, str):
        runs = run_lengths(counts)
    elif isinstance(counts, list) and all(type(run) is int and 0 <= run <= height * width for run in counts):
        runs = np.array(counts, np.int64)
    else:
        runs = None
    if not fills(runs, height, width):
        return f"run-length code {str(counts)[:40]!r} does not fill {height} x {width} pixels"
    return ""


def _ring_fault(ring: Any, height: int, width: int) -> str:
    if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2:
        return f"polygon {str(ring)[:60]} is not a list of at least three x, y"
    if not set(map(type, ring)) <= {int, float}:
        return f"polygon {str(ring)[:60]} holds what is no number"
    reach = 2 * (height + width)  # far outside, where drawing would take time and memory without end
    # min and max pass over a NaN that is not first; the sum does not.
    if not (-reach <= min(ring) and max(ring) <= reach) or math.isnan(sum(ring)):
        return f"polygon {str(ring)[:60]} leaves the picture of {width} x {height} by far"
    return ""


def _drawn(runs: np.ndarray) -> np.ndarray:
    """Run lengths -> (pixels,) bool, column after column."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def _nothing(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width), np.uint8, order="F")
