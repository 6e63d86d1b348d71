"""Region proposals of pictures into a file, which Fast R-CNN is trained, judged and used with (`regions=FILE`).

    retinue propose runs/faster_rcnn/resnet50 data=DIR out=proposals.safetensors
    retinue train fast_rcnn data=DIR regions=proposals.safetensors

A trained Faster R-CNN's region proposal network makes them: step 2 of the 4-step training of Ren et al. (2015, section
3.2), whose step 1 is the training of that network. Where the data have boxes, their recall is said.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from retinue.datasets.formats import describe, open_splits
from retinue.datasets.plain import PlainPictures, find_pictures
from retinue.datasets.proposals import Proposals, Regions, write_proposals
from retinue.datasets.targets import DataError, Target
from retinue.tasks.detection.faster_rcnn import FasterRCNN
from retinue.tasks.detection.proposal_recall import ProposalRecall
from retinue.tasks.detection.regions import to_file
from retinue.tools.evaluate import number
from retinue.tools.loader import Loader, View, evaluation_keys, workers_for
from retinue.tools.options import Propose, check_file, make
from retinue.tools.predictor import Predictor
from retinue.tools.progress import Log, track
from retinue.tools.reading import readable, with_channels
from retinue.tools.run_folder import write_json


def propose(model: str, **settings: Any) -> dict[str, float]:
    """Write the proposals of every split of a data set, or of plain pictures; the options are `options.Propose`'s.

    Returns `SPLIT/proposals/AR100` and `SPLIT/proposals/AR1000` of the splits with boxes. Raises DataError for a model
    without a region proposal network and for a file that is there already.
    """
    options, _ = make("propose", {"model": model, **settings})
    check_out(options)
    log = Log(sys.stderr if options.json == "-" else None)
    splits = open_pictures(options)
    log(describe(splits) if options.data else f"{len(splits['pictures'])} pictures")
    predictor = Predictor.open(options.model, options.weights, options.device, options.precision)
    network = proposing(predictor)
    predictor.side = options.imgsz or predictor.side
    splits = {n: s.with_size(predictor.side) if hasattr(s, "with_size") else s for n, s in splits.items()}
    splits = {n: with_channels(s, predictor.model.backbone.in_channels) for n, s in splits.items()}
    splits = readable(splits, options.strict, log)
    made: dict[str, tuple[str, Regions]] = {}
    values: dict[str, float] = {}
    for name, split in splits.items():
        recall, count = ProposalRecall(), 0
        for i, (regions, target) in enumerate(of_network(predictor, network, split, name, options, log)):
            keep(made, regions, str(split.path(i)) if hasattr(split, "path") else regions.id)
            count += len(regions.boxes)
            if "boxes" in target:
                recall.update([regions.boxes], [target])
        found = recall.compute() if "boxes" in split.keys else {}
        values |= {f"{name}/{key}": value for key, value in found.items()}
        said = "".join(f", {key} {number(value)}" for key, value in found.items())
        log(f"{name:8} {len(split)} pictures, {count} proposals{said}")
    write_proposals(options.out, Proposals.join(options.out, (regions for _, regions in made.values())))
    log(f"{len(made)} pictures' proposals -> {options.out}")
    log(f"next: retinue train fast_rcnn data={options.data or 'DIR'} regions={options.out}")
    write_json(options.json, values)
    return values


def check_out(options: Propose) -> None:
    """DataError where the options do not say of which pictures, or to which new file."""
    if not options.model or bool(options.data) == bool(options.source):
        raise DataError(
            "propose with what, on what? e.g. `retinue propose runs/faster_rcnn/resnet50 data=DIR out=FILE`, or "
            "pictures and folders instead of data"
        )
    if not options.out or Path(options.out).suffix.lower() == ".json" or Path(options.out).is_dir():
        raise DataError(f"out={options.out}: name the file to write, e.g. out=proposals.safetensors")
    check_file("out", options.out)
    if Path(options.out).exists() and not options.exist_ok:
        raise DataError(f"{options.out}: is there already; exist_ok=true replaces it")


def open_pictures(options: Propose) -> dict[str, Any]:
    """The splits of a data set; plain pictures are one split."""
    if options.data:
        return dict(open_splits(options.data, format=options.format))
    return {"pictures": PlainPictures(find_pictures(options.source))}


def proposing(predictor: Predictor) -> FasterRCNN:
    """The model's task with a region proposal network; DataError where it has none."""
    for task in predictor.model.named_tasks.values():
        if isinstance(task, FasterRCNN):
            return task
    names = ", ".join(predictor.model.named_tasks)
    raise DataError(
        f"{names} has no region proposal network; give a trained faster_rcnn or what is made of one"
    )


def of_network(
    predictor: Predictor, task: FasterRCNN, dataset: Any, name: str, options: Propose, log: Log
) -> Iterator[tuple[Regions, Target]]:
    """The `count` best proposals of every picture, in the file's pixels, and what is known of it, in order."""
    task.rpn.top = task.rpn.top[0], max(task.rpn.top[1], options.count)
    preparation = predictor.model.backbone.preprocessing
    view = View(
        dataset, task.eval_transform(predictor.side), {"boxes", "crowd"}, file_frame=True, inputs=task.inputs
    )
    loader = Loader(view, workers_for(options.workers), preparation.pad, preparation.divisor)
    keys = evaluation_keys(len(dataset), options.batch)
    for pictures, targets in track(loader.batches(keys), f"propose {name}", log, len(keys)):
        batch = pictures.to(predictor.device, torch.channels_last)
        with predictor.computing():
            scored = task.score(predictor.model.backbone(batch.pixels, set(task.levels)), batch)
            proposals = task.rpn.propose(scored, batch.sizes)
        moved = to_file([boxes[: options.count].float() for boxes in proposals], pictures)
        for id, size, boxes, target in zip(pictures.ids, pictures.file_sizes, moved, targets):
            yield Regions(id, size, boxes), target


def keep(made: dict[str, tuple[str, Regions]], regions: Regions, path: str) -> None:
    """Add a picture's; one that is in several splits is kept once. DataError where different ones share an id."""
    other, _ = made.setdefault(regions.id, (path, regions))
    if other != path:
        raise DataError(
            f"{other} and {path} have the same id {regions.id!r} in these data; propose for each by itself"
        )


def run(settings: dict[str, Any]) -> int:
    """The command."""
    propose(**settings)
    return 0
