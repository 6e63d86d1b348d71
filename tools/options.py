"""Every command's options, in one place, without importing torch: for the command line, `args.yaml` and Python."""

import dataclasses
import typing
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from retinue.tools.option_values import UsageError, check_file, check_range, closest, convert


def _option(default: Any, help: str, least: float | None = None, most: float | None = None) -> Any:
    return field(default=default, metadata={"help": help, "least": least, "most": most})


VALUES = (
    "what masks hold: 0:background,255:object,11:ignore, or a file of such lines; default: as the data say"
)
FLIP = "dense tasks: average with the mirrored picture's answer"
SCALES = "dense tasks: average over the picture at these scales, e.g. 0.75,1,1.25"
TILE = "dense tasks: answer pictures at their own size, in tiles of this side; default: whole, at imgsz"
OVERLAP = "tile=: pixels that neighbouring tiles share at least; default: a quarter of the tile"


@dataclass
class Train:
    """Train a task on data, from published weights, a saved model, or scratch; or go on with a run."""

    task: str = _option("", "what to learn: classification, ... (see `retinue list tasks`)")
    data: str = _option("scenes", "a data set's folder or file, or scenes[:N], rendered on the fly")
    format: str | None = _option(None, "the data's format, where more than one would fit")
    values: str | None = _option(None, VALUES)
    regions: str | None = _option(
        None, "proposals, for rcnn and fast_rcnn: a file of `retinue propose`, or json"
    )
    backbone: str = _option("mobilenet_v2", "see `retinue list backbones`; timm/NAME opens timm's")
    weights: str | None = _option(
        None, "imagenet, a published name (IMAGENET1K_V2), a file or a URL; default: scratch"
    )
    channels: int = _option(3, "input channels", least=1)
    model: str | None = _option(None, "a saved model, run or published model that a new run starts from")
    resume: str | None = _option(None, "a run's folder: go on exactly where it stopped")
    method: Literal["descend", "linear", "svm"] = _option(
        "descend", "gradient descent, or a linear classifier fitted on features that are computed once"
    )
    shots: str | None = _option(None, "method=linear|svm: pictures a class; K gives the curve 1, 2, 4, ... K")
    seeds: int = _option(5, "method=linear|svm with shots: draws that are averaged", least=1)
    scratch_epochs: int = _option(
        60, "with shots: epochs of the from-scratch contrast; 0 leaves it out", least=0
    )
    tune: str = _option(
        "all", "what descends: all, head, the last K stages of the backbone, or none: only a fit"
    )
    frozen_norm: bool = _option(False, "keep the backbone's batch norms at their statistics")
    epochs: int = _option(10, "passes over the training data", least=1)
    batch: int = _option(32, "pictures a step, over all processes", least=1)
    imgsz: int | None = _option(
        None, "side of the network's input; default: the task's, 64 for scenes", least=1
    )
    optimizer: Literal["adamw", "sgd"] = _option("adamw", "adamw or sgd (Nesterov)")
    lr: str = _option("0.001", "learning rate of the head; `find` runs the LR range test first")
    backbone_lr: float | None = _option(
        None, "learning rate of the backbone; default: lr/10 with weights, lr without", least=0
    )
    momentum: float = _option(0.9, "SGD's", least=0, most=1)
    weight_decay: float = _option(0.01, "of weights; biases and norms have none", least=0)
    schedule: Literal["cosine", "step", "plateau", "constant"] = _option("cosine", "of the learning rate")
    warmup: float = _option(0.5, "epochs of linear warm-up", least=0)
    step_epochs: int = _option(30, "schedule=step: epochs between steps", least=1)
    gamma: float = _option(0.1, "schedule=step, plateau: factor of a step", least=0)
    plateau: int = _option(3, "schedule=plateau: validations without progress before a step", least=1)
    patience: int = _option(0, "stop after this many validations without progress; 0: never", least=0)
    eval_every: int = _option(
        1, "epochs from one validation to the next; the last is always validated", least=1
    )
    accumulate: int = _option(1, "pieces that a batch is computed in", least=1)
    clip: float = _option(0.0, "largest gradient norm; 0: any", least=0)
    ema: float = _option(
        0.0,
        "decay of the averaged weights that are evaluated and saved, e.g. 0.999; 0: none",
        least=0,
        most=1,
    )
    precision: Literal["auto", "fp32", "bf16"] = _option("auto", "auto: bf16 on GPUs that have it, fp32 else")
    device: str | None = _option(None, "cpu, cuda, mps; default: the best there is")
    workers: int | None = _option(
        None, "data-loading processes; default: the number of cores, less what computes", least=0
    )
    seed: int = _option(0, "of weights, order, augmentation and scenes", least=0)
    deterministic: bool = _option(False, "only deterministic kernels (on the CPU they always are)")
    strict: bool = _option(False, "stop on unusable pictures instead of skipping them by name")
    augment: str | None = _option(
        None, "an albumentations pipeline (json or yaml) after the task's own augmentation"
    )
    save_minutes: float = _option(10.0, "save the state this often within an epoch too", least=0)
    tensorboard: bool = _option(False, "log there too (pip install retinue[tensorboard])")
    project: str = _option("runs", "folder of all runs")
    name: str | None = _option(None, "the run's name; default: the backbone's")
    exist_ok: bool = _option(False, "replace the run of that name")
    json: str | None = _option(None, "write the figures to this file too; - is standard output")


@dataclass
class Eval:
    """Evaluate a saved model on data, from pixels, with the numbers that training printed.

    A detector's score_threshold, nms_iou and detections, and what else its task says of its answer, may be other ones.
    """

    model: str = _option(
        "", "a run's folder, a saved model, or a published one's name: resnet50, fasterrcnn_resnet50_fpn"
    )
    predictions: str | None = _option(None, "a COCO results file to judge instead of a model")
    data: str = _option("scenes", "a data set's folder or file, or scenes[:N]")
    format: str | None = _option(None, "the data's format, where more than one would fit")
    values: str | None = _option(None, VALUES)
    split: str | None = _option(None, "train, val or test; default: val, or test where there is no val")
    regions: str | None = _option(
        None, "proposals, for rcnn and fast_rcnn: a file of `retinue propose`, or json"
    )
    weights: str | None = _option(None, "with a published model's name: which weights; default: its best")
    batch: int | None = _option(None, "pictures at once; default: as in training", least=1)
    flip: bool = _option(False, FLIP)
    scales: list[float] = field(default_factory=lambda: [1.0], metadata={"help": SCALES})
    tile: int | None = _option(None, TILE, least=1)
    overlap: int | None = _option(None, OVERLAP, least=0)
    precision: Literal["auto", "fp32", "bf16"] = _option("auto", "auto: as in training")
    device: str | None = _option(None, "cpu, cuda, mps; default: the best there is")
    workers: int | None = _option(None, "data-loading processes", least=0)
    strict: bool = _option(False, "stop on unusable pictures instead of skipping them by name")
    plots: str | None = _option(None, "folder for the task's curves; default: beside the model")
    json: str | None = _option(None, "write the figures to this file too; - is standard output")


@dataclass
class Predict:
    """Predict on pictures, folders and videos: draws, writes json, prints where."""

    model: str = _option(
        "", "a run's folder, a saved model, or a published one's name: resnet50, fasterrcnn_resnet50_fpn"
    )
    source: list[str] = field(default_factory=list, metadata={"help": "pictures, videos, folders, globs"})
    regions: str | None = _option(
        None, "proposals, for rcnn and fast_rcnn: a file of `retinue propose`, or json"
    )
    weights: str | None = _option(None, "with a published model's name: which weights; default: its best")
    batch: int = _option(8, "pictures at once", least=1)
    flip: bool = _option(False, FLIP)
    scales: list[float] = field(default_factory=lambda: [1.0], metadata={"help": SCALES})
    tile: int | None = _option(None, TILE, least=1)
    overlap: int | None = _option(None, OVERLAP, least=0)
    precision: Literal["auto", "fp32", "bf16"] = _option("auto", "auto: as in training")
    device: str | None = _option(None, "cpu, cuda, mps; default: the best there is")
    conf: float = _option(
        0.25,
        "least score of a detection to be shown (predictions.json, for eval, holds all)",
        least=0,
        most=1,
    )
    heatmap: str | None = _option(
        None,
        "of a classifier: where it sees this class (its name or index; top: the one it finds most probable)",
    )
    every: int = _option(1, "of a video: each N-th frame", least=1)
    draw: bool = _option(True, "draw the results on pictures and videos; label masks are written anyway")
    strict: bool = _option(False, "stop on unusable pictures instead of skipping them by name")
    project: str = _option("runs/predict", "folder of the results")
    name: str | None = _option(None, "the results' name; default: the model's")
    exist_ok: bool = _option(False, "replace the results of that name")
    json: str | None = _option(None, "write the results to this file too; - is standard output")


@dataclass
class Propose:
    """Write region proposals to a file, for rcnn and fast_rcnn; says how many objects they find."""

    model: str = _option(
        "",
        "selective_search; or a Faster R-CNN: a run's folder, a saved model, or a published one: "
        "fasterrcnn_resnet50_fpn",
    )
    source: list[str] = field(default_factory=list, metadata={"help": "pictures, folders, globs, not data"})
    data: str | None = _option(None, "a data set's folder or file, or scenes[:N]: all of its splits")
    format: str | None = _option(None, "the data's format, where more than one would fit")
    out: str = _option("", "the file to write, e.g. proposals.safetensors")
    count: int | None = _option(
        None, "proposals a picture at most; default: 2000 of selective_search, 1000 of a network", least=1
    )
    mode: Literal["fast", "quality"] = _option(
        "fast", "selective_search: fast, or quality: several times the boxes, and the time"
    )
    cache: str | None = _option(
        None, "selective_search: folder where boxes are kept; default: retinue/selective_search in ~/.cache"
    )
    weights: str | None = _option(None, "with a published model's name: which weights; default: its best")
    imgsz: int | None = _option(
        None,
        "side of the network's input; default: as in training. selective_search: pictures of more than imgsz x imgsz "
        "pixels are searched at that area; default: 500",
        least=1,
    )
    batch: int = _option(8, "pictures at once", least=1)
    precision: Literal["auto", "fp32", "bf16"] = _option("auto", "auto: as in training")
    device: str | None = _option(None, "cpu, cuda, mps; default: the best there is")
    workers: int | None = _option(None, "data-loading processes", least=0)
    strict: bool = _option(False, "stop on unusable pictures instead of skipping them by name")
    exist_ok: bool = _option(False, "replace the file")
    json: str | None = _option(None, "write the figures to this file too; - is standard output")


@dataclass
class Check:
    """Read a data set the way training will and report what is wrong with it."""

    data: str = _option("", "a data set's folder or file, or scenes[:N]")
    format: str | None = _option(None, "the data's format, where more than one would fit")
    values: str | None = _option(None, VALUES)
    strict: bool = _option(False, "warnings fail too")
    json: str | None = _option(None, "write the report to this file too; - is standard output")


@dataclass
class Convert:
    """Write detection data in another format; what that cannot hold is refused or said, before anything is written."""

    data: str = _option("", "a data set's folder or file")
    format: str | None = _option(None, "the data's format, where more than one would fit")
    to: Literal["coco", "voc", "yolo", "mask_folder"] = _option("", "the format to write")
    out: str = _option("", "a new folder")
    rle: Literal["keep", "polygons"] = _option(
        "keep", "keep: outlines stay what they are; polygons: all become polygons, what that costs is printed"
    )
    drop: list[str] = field(
        default_factory=list,
        metadata={"help": "what may be lost: masks, keypoints, crowd, boxes, classes, overlaps"},
    )
    images: Literal["link", "copy", "none"] = _option(
        "link", "link: hard links, or copies on another disk; copy; none: leave the pictures where they are"
    )
    json: str | None = _option(None, "write what was done to this file too; - is standard output")


@dataclass
class List:
    """List what there is: backbones with their published weights, published models, tasks, data formats."""

    what: str = _option("all", "backbones, models, tasks, datasets or all")
    licence: bool = _option(False, "only the licences of the weights")
    json: str | None = _option(None, "write the list to this file too; - is standard output")


@dataclass
class Bench:
    """Measure the speed figures that the README shows, as ratios in one run."""

    what: str = _option("all", "train, detection, segmentation, yolox, data, scenes, startup or all")
    weights: str | None = _option(None, "yolox: YOLOX-nano's ONNX file, which both sides run")
    data: str | None = _option(None, "data=: a folder of pictures; default: scenes written as JPEG")
    seconds: float = _option(60.0, "time for each comparison", least=0)
    threads: int = _option(0, "torch's threads; 0: all", least=0)
    json: str | None = _option(None, "write the figures to this file too; - is standard output")


COMMANDS: dict[str, type[Any]] = {
    "train": Train,
    "eval": Eval,
    "predict": Predict,
    "propose": Propose,
    "check": Check,
    "convert": Convert,
    "list": List,
    "bench": Bench,
}


def make(
    command: str, settings: dict[str, Any], extra: dict[str, Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    """The command's options from raw settings, and those settings that belong to `extra` (name -> annotation).

    Raises UsageError for a key that is in neither, with what was probably meant, and for a value out of range.
    """
    kind, extra = COMMANDS[command], extra or {}
    hints = typing.get_type_hints(kind)
    known, others = {}, {}
    for key, value in settings.items():
        name = key.replace("-", "_")
        if name in hints:
            known[name] = convert(name, value, hints[name])
        elif name in extra:
            others[name] = convert(name, value, extra[name])
        else:
            near = closest(name, [*hints, *extra])
            raise UsageError(f"{command} has no option {key!r}{near or f'; see `retinue {command} --help`'}")
    for option in fields(kind):
        if option.name in known:
            check_range(option.name, known[option.name], option.metadata)
    if known.get("json") not in (None, "-"):
        check_file("json", known["json"])
    return kind(**known), others


def help_text(command: str) -> str:
    """The command's help: one line an option, with its default."""
    kind = COMMANDS[command]
    hints = typing.get_type_hints(kind)
    lines = [f"retinue {command}: {kind.__doc__}", ""]
    for option in fields(kind):
        default = "" if option.default is MISSING or option.default in (None, "") else f" [{option.default}]"
        text = option.metadata.get("help", "")
        choices = (
            typing.get_args(hints[option.name]) if typing.get_origin(hints[option.name]) is Literal else ()
        )
        if not all(str(choice) in text for choice in choices):
            text += f" ({', '.join(map(str, choices))})"
        lines.append(f"  {option.name:<15} {text}{default}")
    return "\n".join(lines)


def as_dict(options: Any) -> dict[str, Any]:
    """Plain values by option, for `args.yaml`."""
    return dataclasses.asdict(options)
