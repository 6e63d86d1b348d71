"""Judge anybody's COCO results file: `retinue eval predictions=results.json data=...`, without model or pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retinue.datasets.coco_json import read_coco
from retinue.datasets.formats import evaluation_split, open_splits
from retinue.datasets.rle import Rle
from retinue.datasets.segments import Segments
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.detection.average_precision import average_precision, flat_figures
from retinue.tasks.detection.coco_engines import Counts, Truth
from retinue.tasks.detection.diagnosis import diagnose, missing
from retinue.tasks.detection.masks import encode
from retinue.tools.results_file import Results, read_results


@dataclass
class GroundTruth:
    """What results are compared with, in any detection format.

    name: for messages. image_ids: of every picture, in the order in which `truth` numbers them. paths: of their
    files. sizes: (pictures, 2) heights and widths, 0 where unknown. outlines: of every object, where there are any;
    else masks are read from `pictures`. remarks: what was left out of it.
    """

    name: str
    classes: ClassMap
    image_ids: list[int | str]
    paths: list[str]
    sizes: np.ndarray
    truth: Truth
    outlines: Segments | None
    pictures: Any
    remarks: list[str]

    def masks(self, sizes: np.ndarray) -> list[Rle]:
        """Every object's mask; sizes as `self.sizes`, but with what the results know."""
        if self.pictures is not None:
            samples = self.pictures.with_keys(frozenset({"masks"}))
            return [encode(mask) for i in range(len(samples)) for mask in samples[i].targets["masks"]]
        assert self.outlines is not None
        codes = []
        for row, picture in enumerate(self.truth.pictures.tolist()):
            height, width = sizes[picture].tolist()
            if not height:
                raise DataError(
                    f"{self.name}: image {self.image_ids[picture]!r} states no height and width, which masks need; "
                    "add them"
                )
            codes.append(self.outlines.rle(row, height, width))
        return codes


def judge(
    predictions: str, data: str, split: str | None = None, format: str | None = None
) -> tuple[dict[str, float], list[str]]:
    """Flat figures of a COCO results file on data, and remarks: what is n/a and why, what a low AP may come from.

    predictions: json, a list of {"image_id", "category_id", "score"} with "bbox", "segmentation" or "keypoints" or
    several of them: what is in every entry is judged, each by itself (masks are small or large by their own area).
    data: a COCO json file, which is taken as it stands, or any data set with boxes; `split` and `format` choose in it.
    Of equal scores the earlier entry comes first, and over pictures the lower image id, as in pycocotools.
    Raises DataError naming file, entry and value.
    """
    known = open_truth(data, split, format)
    results = read_results(Path(predictions), known.image_ids, known.paths, known.classes, known.sizes)
    kinds, remarks = _judged_kinds(results, known)
    truth, found = known.truth, results.found
    if "mask" in kinds:
        truth = Truth(
            truth.pictures, truth.labels, truth.xywh, truth.crowd, truth.area,
            known.masks(results.sizes), truth.keypoints,
        )  # fmt: skip
    counts = Counts(len(known.image_ids), len(known.classes))
    sigmas = known.classes.keypoints.get("sigmas")
    curves = {kind: average_precision(truth, found, counts, kind, sigmas) for kind in kinds}
    values = flat_figures(curves, known.classes.names)
    remarks = known.remarks + remarks + missing(values)
    return values, remarks + diagnose(truth, found, counts, known.classes.names, results.sizes)


def _judged_kinds(results: Results, known: GroundTruth) -> tuple[list[str], list[str]]:
    """What both the results and the truth have, and what is said of the rest."""
    has_masks = known.outlines is not None or known.pictures is not None
    there = {"box": True, "mask": has_masks, "keypoints": known.truth.keypoints is not None}
    kinds = [kind for kind in results.kinds if there[kind]]
    absent = [kind for kind in results.kinds if not there[kind]]
    if not kinds:
        raise DataError(
            f"{results.file}: has {', '.join(absent)} results, but {known.name} has no truth of that kind; "
            "judge them on data that has"
        )
    return kinds, [f"{', '.join(absent)} not judged: {known.name} has no such truth."] if absent else []


def open_truth(data: str, split: str | None = None, format: str | None = None) -> GroundTruth:
    """The ground truth of a COCO json file, or of a data set's split; pictures in the order of their ids."""
    if data.endswith(".json") and Path(data).is_file():
        if split:
            raise DataError(f"{data}: a COCO file is one split; leave split={split} out")
        coco = read_coco(Path(data))
        ids = coco.annotations.image_ids
        names = [id.decode() if isinstance(id, bytes) else int(id) for id in (ids if ids is not None else [])]
        remarks = [f"{problem.kind}: {problem.value}; {problem.remedy}." for problem in coco.problems[:5]]
        if len(coco.problems) > 5:
            remarks.append(
                f"{len(coco.problems) - 5} more annotations were left out; retinue check names them."
            )
        return _ground_truth(data, coco.classes, names, coco.annotations, None, remarks)
    splits = open_splits(data, format=format)
    name = split or evaluation_split(splits)
    if name not in splits:
        raise DataError(f"{data}: no split {name!r}; it has {', '.join(splits)}")
    dataset: Any = splits[name]
    if not hasattr(dataset, "annotations"):
        raise DataError(f"{data}: has no boxes to judge by, only {sorted(dataset.keys)}; give detection data")
    names = [dataset.image_id(i) for i in range(len(dataset))]
    pictures = dataset if "masks" in dataset.keys else None
    where = f"{data} ({name})"
    return _ground_truth(where, dataset.classes, names, dataset.annotations, pictures, list(dataset.remarks))


def _ground_truth(
    name: str, classes: ClassMap, ids: list[int | str], annotations: Any, pictures: Any, remarks: list[str]
) -> GroundTruth:
    order = sorted(range(len(ids)), key=lambda i: (isinstance(ids[i], str), ids[i]))
    a = annotations.select(np.array(order, np.int64))
    if pictures is not None:
        pictures = pictures.select(np.array(order, np.int64))
    n = len(a.labels)
    xywh = np.concatenate([a.boxes[:, :2], a.boxes[:, 2:] - a.boxes[:, :2]], 1)
    truth = Truth(
        a.pictures,
        a.labels,
        xywh,
        np.zeros(n, bool) if a.crowd is None else a.crowd,
        xywh[:, 2] * xywh[:, 3] if a.area is None else a.area,
        keypoints=a.keypoints,
    )
    sizes = np.zeros((len(a), 2), np.int64) if a.sizes is None else a.sizes.astype(np.int64)
    paths = [path.decode("utf-8", "surrogateescape") for path in a.paths.tolist()]
    outlines = a.segments if pictures is None else None
    return GroundTruth(
        name, classes, [ids[i] for i in order], paths, sizes, truth, outlines, pictures, remarks
    )
