"""The model that a run begins with: from a saved one, or a backbone under a new head; frozen as `tune` says."""

import re
from typing import Any

import retinue.backbones
from retinue.backbones.backbone import Backbone
from retinue.datasets.targets import DataError
from retinue.tasks import model_file
from retinue.tasks.find import find, name_of
from retinue.tasks.task import Model
from retinue.tools.open_model import find_weights
from retinue.tools.options import Train, UsageError
from retinue.tools.progress import Log


def build_model(options: Train, settings: dict[str, Any], splits: dict[str, Any], log: Log) -> Model:
    """The model: from a saved one, or a backbone with the task's new head on it; frozen as `tune` says."""
    classes = splits["train"].classes
    kind = find(options.task)
    model = continued(options, settings, classes, log) if options.model else None
    if model is None:
        backbone = retinue.backbones.build(options.backbone, options.weights, in_channels=options.channels)
        if not options.weights and not options.model:
            log(f"{options.backbone} from scratch; weights=imagenet starts from the published weights")
        if options.method != "descend":
            settings = getattr(kind, "FITTED", {}) | settings
        settings = kind.resolve_settings(settings, splits["train"])
        name = options.task.rpartition(".")[2]
        model = Model(backbone, {name: kind(backbone, classes, **settings)})  # type: ignore[call-arg]
    tune(model.backbone, options.tune, options.frozen_norm)
    counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    log(f"model: {options.backbone}, {total / 1e6:.2f} M parameters, {counted / 1e6:.2f} M of them trained")
    return model


def continued(options: Train, settings: dict[str, Any], classes: Any, log: Log) -> Model | None:
    """The saved model of `options.model`, whole where task and classes are the same.

    Otherwise None, and `options` then say that its backbone's weights are to be used under a new head.
    """
    if options.weights and not options.resume:
        raise UsageError(f"model={options.model} holds its own weights; leave out weights={options.weights}")
    path = find_weights(options.model or "")
    if path is None:
        raise DataError(
            f"model={options.model}: no such file or run; published weights are named by weights="
        )
    header = model_file.read_header(path)
    options.backbone = header["backbone"]["architecture"]
    options.channels = header["backbone"]["options"].get("in_channels", 3)
    module = name_of(find(options.task))
    same = [
        t
        for t in header["tasks"].values()
        if t["module"] == module and t["classes"] and t["classes"]["names"] == list(classes.names)
    ]
    if same and not settings:
        log(f"weights of {path}, head included")
        return model_file.load(path)[0].train()
    log(f"weights of {path}'s {options.backbone} under a new head")
    options.weights = str(path)
    return None


def tune(backbone: Backbone, what: str, frozen_norm: bool) -> None:
    """Freeze what does not descend: nothing (all), the backbone (head), or all but its last K stages."""
    stages = [name for name in backbone.stages() if re.fullmatch(r"c\d", name)] or list(backbone.stages())
    if what == "all":
        backbone.freeze(None, norm=frozen_norm)
    elif what == "head":
        backbone.freeze("all", norm=frozen_norm)
    elif what.isdigit():
        below = stages[: -int(what)] if int(what) else stages
        backbone.freeze(below[-1] if int(what) and below else ("all" if below else None), norm=frozen_norm)
    else:
        raise UsageError(f"tune={what}: say all, head, or how many of the last stages of {', '.join(stages)}")
