"""The model that a run begins with: from a saved one, or a backbone under a new head; frozen as `tune` says."""

import re
from typing import Any

import retinue.backbones
from retinue.backbones.backbone import TAKEN, Backbone
from retinue.tasks import model_file
from retinue.tasks.find import find
from retinue.tasks.task import Model, Task
from retinue.tools.open_model import open_model
from retinue.tools.options import Train, UsageError
from retinue.tools.progress import Log

Begun = tuple[Model, dict[str, Any]]
"""The saved or published model that a run begins with, and its header."""


def begin(options: Train) -> Begun | None:
    """What `model=` names, opened; None where a run begins with a backbone under a new head."""
    if not options.model:
        return None
    model, header, _ = open_model(options.model, options.weights, "cpu")
    return model, header


def build_model(
    options: Train, settings: dict[str, Any], splits: dict[str, Any], log: Log, begun: Begun | None = None
) -> Model:
    """The model: from the one that is begun with, or a backbone under the task's new head; frozen as `tune` says."""
    if begun := begun or begin(options):
        model = continued(options, settings, splits["train"], log, begun)
    else:
        backbone = retinue.backbones.build(options.backbone, options.weights, in_channels=options.channels)
        if not options.weights and next(backbone.parameters(), None) is not None:
            log(f"{options.backbone} from scratch; weights=imagenet starts from the published weights")
        model = with_new_head(backbone, options.task.rpartition(".")[2], options, settings, splits["train"])
    tune(model, options.tune, options.frozen_norm)
    counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    log(f"model: {options.backbone}, {total / 1e6:.2f} M parameters, {counted / 1e6:.2f} M of them trained")
    return model


def rebuild_model(options: Train, saved: dict[str, Any]) -> Model:
    """The model of a run that is resumed: built as its state says; the weights follow."""
    model = model_file.construct(saved["built"])
    tune(model, options.tune, options.frozen_norm)
    return model


def continued(options: Train, settings: dict[str, Any], train_set: Any, log: Log, begun: Begun) -> Model:
    """The model that is begun with, made ready for these data and settings.

    All of its backbone is kept: options, preprocessing, origin, weights, and what its tasks had taken over from it.
    Where it has the task, its settings hold but for those that are asked for, and of its weights those that fit:
    other classes get new last layers, a setting that changes shapes (`head`) new layers there. The log says which.
    """
    saved, header = begun
    backbone = model_file.construct_backbone(header["backbone"])
    restore_backbone(backbone, saved)
    options.backbone = backbone.options.get("body", backbone.architecture)  # a pyramid's is what it stands on
    options.channels = backbone.in_channels
    kind = find(options.task)
    name, old = next(
        ((name, task) for name, task in saved.named_tasks.items() if type(task) is kind),
        (options.task.rpartition(".")[2], None),
    )
    if old is not None:
        settings = {k: v for k, v in old.settings.items() if k not in kind.resolved} | settings
    model = with_new_head(backbone, name, options, settings, train_set)
    log(
        f"weights of {options.model}'s {options.backbone}" + dropped(saved, name if old is not None else None)
    )
    if old is None:
        log(f"{name}: a new head")
    else:
        log(f"{name}: {keep_head(model.named_tasks[name], old)}")
    return model


def with_new_head(
    backbone: Backbone, name: str, options: Train, settings: dict[str, Any], train_set: Any
) -> Model:
    """The task of `options` on a backbone, its settings resolved on the training pictures."""
    kind = find(options.task)
    settings = kind.FITTED.get(options.method, {}) | settings
    settings = kind.resolve_settings(settings, train_set)
    backbone = kind.trunk_for(backbone, settings)
    return Model(backbone, {name: kind(backbone, kind.classes_of(train_set), **settings)})  # type: ignore[call-arg]


def restore_backbone(backbone: Backbone, saved: Model) -> None:
    """Give a backbone that is built like a saved model's its weights, those that tasks had taken over included."""
    state = saved.backbone.state_dict()
    for module in saved.tasks.modules():
        path = getattr(module, TAKEN, None)
        if path is not None:
            state |= {f"{path}.{key}": value for key, value in module.state_dict().items()}
    own = backbone.state_dict()
    for key, value in state.items():
        if key in own and own[key].dim() == 2:  # a fully connected layer that a task made a convolution
            state[key] = value.flatten(1)
    fits = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    backbone.load_state_dict(fits, strict=False)


def keep_head(task: Task, old: Task) -> str:
    """Copy the layers of a saved task that fit; its last ones only for the same classes. Returns what was kept."""
    theirs = dict(old.named_modules())
    new = []
    for path, module in task.named_modules():
        own = {key: value.shape for key, value in module.state_dict().items() if "." not in key}
        if not own:
            continue
        given = theirs[path].state_dict() if path in theirs else {}
        if {key: value.shape for key, value in given.items() if "." not in key} == own:
            module.load_state_dict({key: given[key] for key in own}, strict=False)
        else:
            new.append(path)
    if old.classes and (task.classes is None or task.classes.names != old.classes.names):
        task.forget_classes()
        return "its head kept, with new last layers for other classes" + (f"; new: {new}" if new else "")
    return f"its head kept but for new {', '.join(new)}" if new else "its head kept"


def dropped(saved: Model, name: str | None) -> str:
    """What the log says of the saved model's tasks that are not trained on."""
    others = [other for other in saved.named_tasks if other != name]
    return f", without its {', '.join(others)}" if others else ""


def tune(model: Model, what: str, frozen_norm: bool) -> None:
    """Freeze what does not descend: nothing (all), all that is pretrained (head), or all but its last K stages.

    With `head`, new parts of a backbone (an FPN's own) learn too, and what a task took over from it (fc6) does not.
    """
    stages = [name for name in model.backbone.pretrained_stages() if re.fullmatch(r"c\d", name)]
    stages = stages or model.backbone.pretrained_stages()
    if what == "all":
        through = None
    elif what in ("head", "none"):
        through = "pretrained"
    elif what.isdigit():
        below = stages[: -int(what)] if int(what) else stages
        through = (below[-1] if int(what) else "pretrained") if below else None
    else:
        raise UsageError(
            f"tune={what}: say all, head, how many of the last stages of {', '.join(stages)}, or none before a fit"
        )
    model.freeze(through, norm=frozen_norm)
    model.freeze_unread()
