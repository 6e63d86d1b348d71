"""What torchvision calls the tensors of its detectors, and what we do."""

import re
from collections.abc import Callable, Sequence

from retinue.backbones.backbone import Backbone

OLD_NAMES = (
    (re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
)
"""Of modules that torchvision has since put into Sequentials: its first published files have them."""

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
TOWERS: tuple[Rule, ...] = (
    (r"^classification_head\.cls_logits", "class_head.4"),
    (r"^classification_head\.conv", "class_head"),
)
ONE_STAGE: dict[str, tuple[Rule, ...]] = {
    "retinanet": (
        # its first files have the ReLUs between the convolutions counted
        (r"conv\.(\d)\.(weight|bias)$", lambda found: f"conv.{int(found[1]) // 2}.0.{found[2]}"),
        *TOWERS,
        (r"^regression_head\.bbox_reg", "box_head.4"),
        (r"^regression_head\.conv", "box_head"),
    ),
    "fcos": (
        # convolution, norm and ReLU, counted through
        (r"conv\.(\d+)\.", lambda found: "conv.{}.{}.".format(*divmod(int(found[1]), 3))),
        *TOWERS,
        (r"^regression_head\.bbox_reg", "box_sides"),
        (r"^regression_head\.bbox_ctrness", "centreness"),
        (r"^regression_head\.conv", "box_tower"),
    ),
    "ssd": (
        (r"^classification_head\.module_list", "class_head"),
        (r"^regression_head\.module_list", "box_head"),
    ),
}
"""Task -> how the names of a head, after `head.`, become ours."""


SSD_TRUNK: tuple[Rule, ...] = (
    (r"^backbone\.scale_weight$", "task.scale"),
    (r"^backbone\.extra\.0\.7\.(\d)", lambda found: f"backbone.fc.{int(found[1]) - 1}"),
    (r"^backbone\.extra\.0\.(\d)", lambda found: f"backbone.features.{23 + int(found[1])}"),
    (r"^backbone\.extra\.(\d)", lambda found: f"task.extra.{int(found[1]) - 1}"),
)
"""From the fourth pooling on, number 23 of VGG-16, torchvision has the trunk among the extra layers."""
SSDLITE_TRUNK: tuple[Rule, ...] = (
    (r"^backbone\.features\.0\.13\.", "backbone.features.13.block.0."),
    (r"^backbone\.features\.0\.", "backbone.features."),
    (r"^backbone\.features\.1\.0\.", "backbone.features.13.block."),
    (r"^backbone\.features\.1\.(\d+)", lambda found: f"backbone.features.{13 + int(found[1])}"),
    (r"^backbone\.extra\.", "task.extra."),
)
"""torchvision cuts block 13 of MobileNetV3 behind its expansion: the two parts follow each other."""


def translate(key: str, backbone: Backbone, task: str) -> str:
    """torchvision's name of a tensor -> ours.

    Theirs are backbone.body, backbone.fpn, rpn and roi_heads; of a MobileNet's body only the numbered `features`. Those
    of one stage have a `head`, and SSD's trunk its extra layers.
    """
    for pattern, new in OLD_NAMES:
        key = pattern.sub(new, key)
    key = re.sub(r"mask_fcn(\d)\.", lambda found: f"{int(found.group(1)) - 1}.0.", key)
    if key.startswith("head."):
        rules = ONE_STAGE["ssd" if task == "ssdlite" else task]
        return f"tasks.{task}.{_apply(rules, key.removeprefix('head.'))}"
    if task in ("ssd", "ssdlite"):
        trunk = _apply(SSD_TRUNK if task == "ssd" else SSDLITE_TRUNK, key)
        return trunk.replace("task.", f"tasks.{task}.", 1) if trunk.startswith("task.") else trunk
    if key.startswith("backbone.fpn."):
        return key.replace("backbone.fpn.", "backbone.", 1)
    if key.startswith("backbone.body.") and hasattr(backbone.body, "features"):
        return key.replace("backbone.body.", "backbone.body.features.", 1)
    if key.startswith("backbone."):
        return key
    return f"tasks.{task}.{key.removeprefix('roi_heads.')}"


def _apply(rules: Sequence[Rule], key: str) -> str:
    """The key after all of these rules, one after the other."""
    for pattern, new in rules:
        key = re.sub(pattern, new, key)
    return key
