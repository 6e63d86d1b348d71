"""`retinue bench detection`: detectors against torchvision's, with the same weights, pictures taking turns.

The weights are random, so both are first given heads that find a hundred objects in any picture: the second stage,
masks and keypoints then cost what they cost on a photograph of a crowd. Prediction is of one picture of 800 x 1066,
SSD300's of one of 300 x 300, neither read nor resized; a training step of two, with ten objects each. Memory is what
the first prediction of Mask R-CNN takes on top of the model, with masks at the file's size.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import detection, resnet50
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d

from retinue.datasets.targets import Pictures, Sample, Target, collate
from retinue.tasks.detection import published
from retinue.tasks.fused import fused_model
from retinue.tasks.task import Model
from retinue.tools.options import Bench
from retinue.tools.peak_memory import RESET, peak_rise
from retinue.tools.take_turns import ratio, take_turns

NAMES = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn")
SINGLE_SHOT = "ssd300_vgg16"
SIZE, SQUARE = (800, 1066), (300, 300)
MEAN = (0.485, 0.456, 0.406)
CLASS_SPREAD = 1.5
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def picture(size: tuple[int, int] = SIZE, seed: int = 0) -> Sample:
    """Coloured blocks with noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (size[0] // 32 + 1, size[1] // 32 + 1, 3), dtype=np.uint8)
    image = blocks.repeat(32, 0).repeat(32, 1)[: size[0], : size[1]] // 2
    return Sample(str(seed), image + rng.integers(0, 60, image.shape, dtype=np.uint8))


def untrained(name: str) -> nn.Module:
    """torchvision's detector as its COCO weights are loaded: frozen batch norms, the stem and first stage frozen."""
    network = getattr(detection, name)(weights=None, weights_backbone=None)
    if name == SINGLE_SHOT:
        return network.eval()
    network.backbone = _resnet_fpn_extractor(resnet50(norm_layer=FrozenBatchNorm2d), 3)
    return network.eval()


def theirs(name: str) -> nn.Module:
    """torchvision's detector, made to find objects."""
    torch.manual_seed(0)
    network = untrained(name)
    finds_objects(network, [torch.from_numpy(picture((256, 320)).image).permute(2, 0, 1) / 255])
    return network


def ours(name: str, tensors: dict[str, Tensor]) -> Model:
    """Our detector with the tensors of torchvision's, frozen alike."""
    model = published.construct(name)
    published.insert(model, tensors, name)
    model.freeze("c2", norm=True)
    return model.eval()


def as_they_take_it(sample: Sample) -> Tensor:
    """A picture (3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(sample.image).permute(2, 0, 1).float() / 255


def as_we_take_it(*samples: Sample, divisor: int = 32) -> Pictures:
    """A batch on one canvas, channels last."""
    pictures, _ = collate(list(samples), MEAN, divisor)
    return pictures.to("cpu", torch.channels_last)


def finds_objects(network: nn.Module, pictures: list[Tensor]) -> None:
    """Give a torchvision detector with random weights the statistics of its own activations, and keen heads."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.7, 1.3)
        nn.init.normal_(norm.bias, 0, 0.2)
    spreads = answers(network)
    for layer in spreads:
        nn.init.normal_(layer.weight, 0, 10)
        nn.init.zeros_(layer.bias)
    hooks = [norm.register_forward_pre_hook(_measure) for norm in norms]
    hooks += [layer.register_forward_hook(partial(_shrink, deviation=d)) for layer, d in spreads.items()]
    training = network.training
    with torch.no_grad():
        network.eval()(pictures)
    for hook in hooks:
        hook.remove()
    for layer, prior in priors(network).items():
        layer.bias.data.copy_(prior)
    network.train(training)


def answers(network: Any) -> dict[Any, float]:
    """The last layers of a torchvision detector, and how far what they say shall spread."""
    if hasattr(network, "roi_heads"):
        predictor, rpn = network.roi_heads.box_predictor, network.rpn.head
        # Of two classes a score near 1 would be shared by many: their order would be chance.
        classes = 2.5 if predictor.cls_score.out_features > 2 else 0.5
        return {
            rpn.cls_logits: 1.5,
            rpn.bbox_pred: 0.3,
            predictor.cls_score: classes,
            predictor.bbox_pred: 1.0,
        }
    spreads = dict.fromkeys(class_layers(network), CLASS_SPREAD)
    boxes: Any = network.head.regression_head
    if hasattr(boxes, "module_list"):
        return spreads | {last_convolution(part): 1.0 for part in boxes.module_list}
    spreads[boxes.bbox_reg] = 0.3 if not hasattr(boxes, "bbox_ctrness") else 2.0
    return spreads | ({boxes.bbox_ctrness: 1.0} if hasattr(boxes, "bbox_ctrness") else {})


def class_layers(network: Any) -> list[Any]:
    """The layers that score classes, one for each map of SSD."""
    head = network.head.classification_head
    return [
        last_convolution(part) for part in getattr(head, "module_list", [getattr(head, "cls_logits", None)])
    ]


def last_convolution(module: nn.Module) -> Any:
    """Of a predictor."""
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)][-1]


def priors(network: Any) -> dict[Any, Tensor]:
    """Biases of a one-stage detector's classes, under which most anchors find nothing."""
    if hasattr(network, "roi_heads"):
        return {}
    if not hasattr(network.head.classification_head, "module_list"):
        return {layer: torch.tensor(-6.0) for layer in class_layers(network)}
    columns = network.head.classification_head.num_columns
    return {
        layer: torch.where(torch.arange(len(layer.bias)) % columns == 0, 9.5, 0.0)
        for layer in class_layers(network)
    }


def _measure(norm: Any, inputs: tuple[Tensor, ...]) -> None:
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    norm.running_var.copy_(inputs[0].var((0, 2, 3)))


def _shrink(layer: Any, inputs: tuple[Tensor, ...], output: Tensor, deviation: float) -> Tensor:
    """The layer, and this output of it, made to spread no more than `deviation`, at each map that it reads."""
    factor = (deviation / output.std()).clamp(max=1)
    layer.weight.mul_(factor)
    return output * factor


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def bench_prediction(name: str, seconds: float, size: tuple[int, int] = SIZE) -> dict[str, float]:
    """How many times as fast as torchvision in fp32, from a tensor to boxes: ours fused, in fp32 and in bf16."""
    network = theirs(name)
    model = ours(name, network.state_dict())
    divisor = model.backbone.preprocessing.divisor
    pictures, images = as_we_take_it(picture(size), divisor=divisor), [as_they_take_it(picture(size))]
    rivals: dict[str, Callable[[], float]] = {"theirs": lambda: timed(lambda: network(images))}
    for precision, dtype in PRECISIONS.items():
        fused = fused_model(model, dtype)
        rivals[precision] = lambda fused=fused: timed(lambda: fused.predict(pictures))  # type: ignore[misc]
    with torch.inference_mode():
        times = take_turns(rivals, seconds)
    short = name.partition("_")[0]
    return {
        f"{short}/torchvision_seconds": statistics.median(times["theirs"]),
        f"{short}/fp32_over_torchvision_fp32": ratio(times, "theirs", "fp32"),
        f"{short}/bf16_over_torchvision_fp32": ratio(times, "theirs", "bf16"),
    }


def training_pair(name: str) -> tuple[list[Tensor], list[dict[str, Tensor]], Pictures, list[Target]]:
    """Two pictures with ten objects each, as torchvision takes them and as we do."""
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 500, (2, 10, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(30, 300, (2, 10, 2))], 2).astype(np.float32)
    truth: list[Target] = [
        {"boxes": torch.from_numpy(b), "box_labels": torch.zeros(10, dtype=torch.int64)} for b in boxes
    ]
    if name.startswith("mask"):
        for target in truth:
            masks = torch.zeros(10, *SIZE, dtype=torch.bool)
            for mask, (x1, y1, x2, y2) in zip(masks, target["boxes"].int().tolist()):
                mask[y1:y2, x1:x2] = True
            target["masks"] = masks
    if name.startswith("keypoint"):
        for target in truth:
            centre = (target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2
            points = torch.cat([centre, torch.full((10, 1), 2.0)], 1)
            target["keypoints"] = points[:, None].repeat(1, 17, 1)
    samples = [picture(seed=i) for i in range(2)]
    for_theirs = [{("labels" if k == "box_labels" else k): v for k, v in t.items()} for t in truth]
    for target in for_theirs:
        target["labels"] = target["labels"] + 1
        if "masks" in target:
            target["masks"] = target["masks"].to(torch.uint8)
    return [as_they_take_it(s) for s in samples], for_theirs, as_we_take_it(*samples), truth


def step(network: nn.Module, inputs: tuple[Any, Any], optimizer: torch.optim.Optimizer, bf16: bool) -> None:
    """One step of gradient descent."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        losses = network(*inputs)
    torch.stack([value.float() for value in losses.values()]).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def bench_training(name: str, seconds: float) -> dict[str, float]:
    """A training step, each side in its faster precision."""
    network = theirs(name)
    model = ours(name, network.state_dict())
    images, for_theirs, pictures, truth = training_pair(name)
    if not name.startswith("keypoint"):  # whose loss in torchvision cannot read channels-last maps
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rivals: dict[str, Callable[[], float]] = {}
    for who, module, inputs in (
        ("theirs", network, (images, for_theirs)),
        ("ours", model, (pictures, truth)),
    ):
        module.train()
        optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 1e-6, momentum=0.9)
        for precision in ("fp32", "bf16"):
            work = partial(step, module, inputs, optimizer, precision == "bf16")
            rivals[f"{who} {precision}"] = partial(timed, work)
    times = take_turns(rivals, seconds)
    faster = {
        who: min((f"{who} fp32", f"{who} bf16"), key=lambda n: statistics.median(times[n]))
        for who in ("theirs", "ours")
    }
    short = name.partition("_")[0]
    return {
        f"{short}/torchvision_step_seconds": statistics.median(times[faster["theirs"]]),
        f"{short}/step_over_torchvision": ratio(times, faster["theirs"], faster["ours"]),
    }


def first_masks(name: str, who: str, file: Path, threads: int) -> tuple[float, int]:
    """MiB by which memory rises in a process's first prediction, to masks at the file's size; and their number.

    who: "torchvision", which paints all of them, or our precision, whose masks become run-length codes one by one.
    """
    torch.set_num_threads(threads)
    tensors, count = torch.load(file, weights_only=True), 0
    if who == "torchvision":
        network, images = untrained(name), [as_they_take_it(picture())]
        network.load_state_dict(tensors)
    else:
        fused, pictures = fused_model(ours(name, tensors), PRECISIONS[who]), as_we_take_it(picture())
    del tensors

    def predict() -> None:
        nonlocal count
        with torch.inference_mode():
            if who == "torchvision":
                count = len(network(images)[0]["masks"])
            else:
                (result,) = fused.predict(pictures)["mask_rcnn"]
                count = len(result.masks.rles())

    return peak_rise(predict) / 2**20, count


def bench_memory(name: str) -> dict[str, float]:
    """What the first prediction takes beyond the model, each side in a process of its own that holds no other."""
    rises = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.pth"
        torch.save(theirs(name).state_dict(), file)
        for who in ("torchvision", *PRECISIONS):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rises[who], count = pool.apply(first_masks, (name, who, file, torch.get_num_threads()))
            if count < 90:
                raise RuntimeError(f"{who} finds {count} objects, too few to say what masks take")
    return {f"mask_rcnn/memory/{who}_mib": rise for who, rise in rises.items()}


def bench_detection(options: Bench) -> Iterator[dict[str, float]]:
    """Prediction and training of the detectors, `seconds` for each comparison; memory where the system tells."""
    for name in NAMES:
        yield bench_prediction(name, options.seconds)
    yield bench_prediction(SINGLE_SHOT, options.seconds, SQUARE)
    for name in NAMES:
        yield bench_training(name, options.seconds)
    if RESET.exists():
        yield bench_memory("maskrcnn_resnet50_fpn")
