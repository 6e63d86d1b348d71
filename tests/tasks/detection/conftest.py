import numpy as np
import pytest

from retinue.tasks.detection.judged import JudgedBoxes, PictureBoxes


@pytest.fixture(scope="session")
def judge():
    """Build `JudgedBoxes` of pictures, each a list of truths (box, label[, crowd]) and one of detections
    (box, label, score)."""

    def build(*pictures):
        def column(rows, place, default=None):
            return np.array([row[place] if len(row) > place else default for row in rows])

        return JudgedBoxes.from_pictures(
            {
                f"{i:04d}": PictureBoxes(
                    column(truths, 0),
                    column(truths, 1),
                    column(truths, 2, False),
                    column(found, 0),
                    column(found, 2),
                    column(found, 1),
                )
                for i, (truths, found) in enumerate(pictures)
            }
        )

    return build


@pytest.fixture(scope="session")
def scattered():
    """Random boxes of few sides and scores near their truths, so that equal overlaps, equal scores, second hits,
    crowds, wrong classes, pictures without truth or detections all come up."""

    def build(seed, pictures=4, classes=2, truths=4, detections=9):
        rng = np.random.default_rng(seed)

        def boxes(n):
            corner = rng.integers(0, 12, (n, 2))
            return np.concatenate([corner, corner + rng.integers(2, 9, (n, 2))], 1)

        def picture():
            t, n = rng.integers(0, truths + 1), rng.integers(0, detections + 1)
            truth, near = boxes(t), boxes(n)
            if t:
                copied = rng.random(n) < 0.7
                moved = truth[rng.integers(0, t, n)] + rng.integers(-1, 2, (n, 4))
                near[copied] = moved[copied]
            return PictureBoxes(
                truth,
                rng.integers(0, classes, t),
                rng.random(t) < 0.2,
                near,
                rng.integers(1, 20, n) / 20,
                rng.integers(0, classes, n),
            )

        return JudgedBoxes.from_pictures({f"{i:04d}": picture() for i in range(pictures)})

    return build
