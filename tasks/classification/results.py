"""What a classifier says of one picture."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.classification.draw import draw_bars


@dataclass(frozen=True, eq=False)
class Classification:
    """The probability of every class for one picture.

    id: the picture's id. probabilities: (k,) float32, summing to 1. classes: the names and original ids of
    the k classes. Raises ValueError for probabilities that do not fit the classes, DataError for those that are
    not finite.
    """

    id: str
    probabilities: np.ndarray
    classes: ClassMap

    def __post_init__(self) -> None:
        if self.probabilities.shape != (len(self.classes),):
            raise ValueError(
                f"{self.id}: {self.probabilities.shape} probabilities for {len(self.classes)} classes"
            )
        if not np.isfinite(self.probabilities).all():
            raise DataError(
                f"{self.id}: the probabilities are not finite ({self.probabilities[:5]} ...): "
                f"look for non-finite weights, or predict in float32"
            )

    @property
    def index(self) -> int:
        """Index of the most probable class; the first of equals."""
        return int(self.probabilities.argmax())

    @property
    def label(self) -> str:
        """Name of the most probable class."""
        return self.classes.names[self.index]

    @property
    def score(self) -> float:
        """Probability of the most probable class."""
        return float(self.probabilities.max())

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The k most probable classes, best first: (name, probability); all of them where there are fewer."""
        return [(self.classes.names[i], float(self.probabilities[i])) for i in self._order(k)]

    def _order(self, k: int) -> list[int]:
        return np.argsort(-self.probabilities, kind="stable")[:k].tolist()

    def __str__(self) -> str:
        return ", ".join(f"{name} {probability:.2f}" for name, probability in self.top(3))

    def to_json(self) -> dict[str, Any]:
        """The five most probable classes with name, original id and probability, best first."""
        top = [
            {
                "name": self.classes.names[i],
                "id": self.classes.ids[i],
                "probability": float(self.probabilities[i]),
            }
            for i in self._order(5)
        ]
        return {"id": self.id, "label": self.label, "score": self.score, "top": top}

    def draw(self, picture: np.ndarray, k: int = 5) -> np.ndarray:
        """A copy of the picture (h, w, 3) uint8 RGB with the k most probable classes as bars in a corner."""
        return draw_bars(picture, self.top(k))
