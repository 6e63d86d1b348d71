"""Neck: a backbone around a backbone, which adds levels to its body's: a feature pyramid, a path aggregation."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from retinue.backbones.backbone import NEW, TAKEN, Backbone, Level, Preprocessing, Top


class Neck(Backbone):
    """What necks share: the body's stages come first, then one stage of the neck's own, named `architecture`.

    `reads`: the body's levels that it is built on, finest first. `freeze("c5")` freezes the body and leaves the neck,
    whose modules a subclass marks as new (`finish`). The body's parameters are under `body.`.
    Raises KeyError for a level that the body does not have, and for none at all.
    """

    body: Backbone

    def __init__(self, backbone: Backbone, reads: Sequence[str], architecture: str, **options: Any) -> None:
        if not reads or (unknown := set(reads) - backbone.levels.keys()):
            missing = sorted(unknown) if reads else "to read"
            raise KeyError(f"no level {missing}; the backbone has {list(backbone.levels)}")
        super().__init__(backbone.in_channels, backbone.preprocessing)
        self.body, self.reads, self.architecture = backbone, tuple(reads), architecture
        self.frozen_stages, self.frozen_norm = backbone.frozen_stages, backbone.frozen_norm
        self.weights, self.categories = backbone.weights, backbone.categories
        self.new_top = backbone.new_top
        self.options = {
            "body": backbone.architecture,
            "body_options": backbone.options,
            "levels": list(reads),
            **options,
        }

    def own_modules(self) -> list[nn.Module]:
        """The neck's own modules, in order."""
        raise NotImplementedError

    def finish(self, levels: dict[str, Level]) -> None:
        """Declare the neck's levels beside the body's, and mark its modules as new: a constructor's last step."""
        together = {**self.body.levels, **levels}
        self.levels = dict(sorted(together.items(), key=lambda item: item[1].stride))
        for module in self.own_modules():
            for part in module.modules():
                setattr(part, NEW, True)

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """The body's stages, then the neck."""
        return {**self.body.stages(), self.architecture: self.own_modules()}

    def prepare_for(self, preprocessing: Preprocessing) -> None:
        """Normalise pictures as the body's weights expect from now on."""
        super().prepare_for(preprocessing)
        if hasattr(self, "body"):
            self.body.prepare_for(preprocessing)

    def absorb_normalisation(self) -> bool:
        """The body's."""
        return self.body.absorb_normalisation()

    def top(self) -> Top | None:
        """The body's."""
        return self.body.top()

    def chop(self) -> Top | None:
        """Take the body's classifier off."""
        top = self.body.chop()
        self._prefix(top)
        return top

    def cut(self, name: str) -> nn.Sequential:
        """Take off the body's last stage. Raises ValueError if it is another, or the neck reads it."""
        if name in self.reads or name == self.architecture:
            raise ValueError(f"{name!r} cannot be cut off: the pyramid reads {list(self.reads)}")
        removed = self.body.cut(name)
        self._prefix(removed)
        self.levels = {level: value for level, value in self.levels.items() if level != name}
        return removed

    def _prefix(self, taken: nn.Module | None) -> None:
        for module in taken.modules() if taken else ():
            if hasattr(module, TAKEN):
                setattr(module, TAKEN, f"body.{getattr(module, TAKEN)}")

    def freeze(self, through: str | None = "all", norm: bool | None = None) -> None:
        """As `Backbone.freeze`, over the body's stages and the neck; it replaces what was frozen of the body before."""
        self.body.frozen_stages, self.body.frozen_norm = (), False
        super().freeze(through, norm)
