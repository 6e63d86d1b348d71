"""Region proposals of pictures into a file, which Fast R-CNN is trained, judged and used with (`regions=FILE`).

    retinue propose selective_search data=DIR out=proposals.safetensors
    retinue propose runs/faster_rcnn/resnet50 data=DIR out=proposals.safetensors
    retinue train fast_rcnn data=DIR regions=proposals.safetensors

Selective search needs no training; each picture's boxes are kept in a folder (`proposal_cache`), so that work that was
interrupted goes on where it stopped. Or a trained Faster R-CNN's region proposal network makes them: step 2 of the
4-step training of Ren et al. (2015, section 3.2), whose step 1 is the training of that network. Where the data have
boxes, their recall is said.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from retinue.datasets.formats import describe, open_splits
from retinue.datasets.plain import PlainPictures, find_pictures
from retinue.datasets.proposals import MOST, Proposals, Regions, write_proposals
from retinue.datasets.targets import DataError, Target
from retinue.tasks.detection.faster_rcnn import FasterRCNN
from retinue.tasks.detection.proposal_recall import ProposalRecall
from retinue.tasks.detection.regions import to_file
from retinue.tools.evaluate import number
from retinue.tools.loader import Loader, View, evaluation_keys, workers_for
from retinue.tools.options import Propose, check_file, make
from retinue.tools.predictor import Predictor
from retinue.tools.progress import Log, track
from retinue.tools.proposal_cache import CachedSearch
from retinue.tools.reading import readable, with_channels
from retinue.tools.run_folder import write_json

SEARCH = "selective_search"
"""What stands in a model's place for selective search."""


class Proposer(Protocol):
    """What makes proposals of pictures with so many channels; scenes are rendered at `side`."""

    channels: int
    side: int

    def __call__(self, dataset: Any, name: str, log: Log) -> Iterator[tuple[Regions, Target]]:
        """The best proposals of every picture of a split, in the file's pixels, and what is known of it, in order."""
        ...


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
    proposer: Proposer = Search(options) if options.model == SEARCH else Network(options)
    splits = {n: s.with_size(proposer.side) if hasattr(s, "with_size") else s for n, s in splits.items()}
    splits = {n: with_channels(s, proposer.channels) for n, s in splits.items()}
    splits = readable(splits, options.strict, log)
    made: dict[str, tuple[str, Regions]] = {}
    values: dict[str, float] = {}
    for name, split in splits.items():
        recall, count = ProposalRecall(), 0
        for i, (regions, target) in enumerate(proposer(split, name, log)):
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
            "propose with what, on what? e.g. `retinue propose selective_search data=DIR out=FILE`, or "
            "pictures and folders instead of data"
        )
    foreign = ("weights",) if options.model == SEARCH else ("mode", "cache")
    for name in foreign:
        if (value := getattr(options, name)) != getattr(Propose, name):
            other = "a published network's" if options.model == SEARCH else f"{SEARCH}'s"
            raise DataError(f"{name}={value}: that is {other}, not of {options.model}; leave it out")
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
        f"{names} has no region proposal network; give a trained faster_rcnn or what is made of one, "
        f"or {SEARCH}"
    )


class Network:
    """A trained network's `count` best proposals. Raises DataError for one that has none."""

    def __init__(self, options: Propose) -> None:
        self.options, self.count = options, options.count or 1000
        self.predictor = Predictor.open(options.model, options.weights, options.device, options.precision)
        self.task = proposing(self.predictor)
        self.task.rpn.top = self.task.rpn.top[0], max(self.task.rpn.top[1], self.count)
        self.side = self.predictor.side = options.imgsz or self.predictor.side
        self.channels = self.predictor.model.backbone.in_channels

    def __call__(self, dataset: Any, name: str, log: Log) -> Iterator[tuple[Regions, Target]]:
        """See Proposer."""
        predictor, task = self.predictor, self.task
        preparation = predictor.model.backbone.preprocessing
        view = View(
            dataset,
            task.eval_transform(predictor.side),
            {"boxes", "crowd"},
            file_frame=True,
            inputs=task.inputs,
        )
        loader = Loader(view, workers_for(self.options.workers), preparation.pad, preparation.divisor)
        keys = evaluation_keys(len(dataset), self.options.batch)
        for pictures, targets in track(loader.batches(keys), f"propose {name}", log, len(keys)):
            batch = pictures.to(predictor.device, torch.channels_last)
            with predictor.computing():
                scored = task.score(predictor.model.backbone(batch.pixels, set(task.levels)), batch)
                proposals = task.rpn.propose(scored, batch.sizes)
            moved = to_file([boxes[: self.count].float() for boxes in proposals], pictures)
            for id, size, boxes, target in zip(pictures.ids, pictures.file_sizes, moved, targets):
                yield Regions(id, size, boxes), target


class Search:
    """Selective search: the loading processes do the work."""

    channels = 3

    def __init__(self, options: Propose) -> None:
        self.side = options.imgsz or 64  # training's default for scenes
        self.workers = workers_for(options.workers)
        self.search = CachedSearch(options.mode, options.imgsz, options.cache, options.count or MOST)

    def __call__(self, dataset: Any, name: str, log: Log) -> Iterator[tuple[Regions, Target]]:
        """See Proposer."""
        loader = Loader(View(dataset, self.search, {"boxes", "crowd"}, file_frame=True), self.workers)
        keys = evaluation_keys(len(dataset), 1)
        for pictures, targets in track(loader.batches(keys), f"propose {name}", log, len(keys)):
            boxes = pictures.inputs["proposals"][0].numpy()
            yield Regions(pictures.ids[0], pictures.file_sizes[0], boxes), targets[0]


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
