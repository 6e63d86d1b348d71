"""Look: a colour change of a picture as one affine map of RGB, or one table of 256 levels.

Brightness, contrast, saturation, hue and greyness are affine maps; several in a row multiply into one, and
the picture is read and written once. What leaves the range of light is cut off once, at the end; until then
the maps commute, so their order need not be drawn. Hue turns the plane of I and Q in YIQ, which keeps the
luma Y (the 1953 NTSC weights).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from retinue.datasets.resample import white
from retinue.datasets.targets import Others, Sample

LUMA = np.array([0.299, 0.587, 0.114])
YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
RGB = np.linalg.inv(YIQ)
GREY = np.tile(LUMA, (3, 1))

Range = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """out = clip(matrix [r g b 1])^gamma for light in [0, 1]. matrix: (3, 4) float64."""

    matrix: np.ndarray
    gamma: float = 1.0

    @classmethod
    def of(cls, linear: np.ndarray, offset: float = 0.0) -> "Look":
        """The affine map `linear` (3, 3) x + `offset`."""
        return cls(np.column_stack([linear, np.full(3, offset)]))

    def then(self, after: "Look") -> "Look":
        """This look and then `after`, as one. ValueError after a power: no affine map says that."""
        if self.gamma != 1:
            raise ValueError(f"a look with gamma {self.gamma} is not followed by another in one step")
        matrix = after.matrix[:, :3] @ self.matrix
        matrix[:, 3] += after.matrix[:, 3]
        return Look(matrix, after.gamma)

    def __call__(self, sample: Sample) -> Sample:
        """The sample seen so: the picture, and `clean`, which must stay what the picture should have been."""
        targets = sample.targets
        if "clean" in targets:
            clean = self.apply(np.ascontiguousarray(targets["clean"].transpose(1, 2, 0)))
            targets = {**targets, "clean": np.ascontiguousarray(clean.transpose(2, 0, 1))}
        return sample.with_(image=self.apply(sample.image), targets=targets)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """A picture (h, w, c) uint8, uint16 or float32 in [0, 1], to the same type.

        Of more than three channels the first three are RGB and the others stay; one or two are grey.
        """
        if image.shape[2] > 3:
            return np.concatenate([self.apply(image[..., :3]), image[..., 3:]], 2)
        if image.shape[2] < 3 or (self.gamma != 1 and self._is_tone()):
            return _tone(image, *self._grey(), self.gamma)
        if not np.array_equal(self.matrix, np.eye(3, 4)):
            light = white(image.dtype)
            matrix = np.column_stack([self.matrix[:, :3], self.matrix[:, 3] * light])
            image = cv2.transform(image, matrix.astype(np.float32))
            image = image if image.dtype != np.float32 else image.clip(0, 1)
        return image if self.gamma == 1 else _tone(image, 1.0, 0.0, self.gamma)

    def _is_tone(self) -> bool:
        """True if it does to every channel what it does to grey."""
        gain, offset = self._grey()
        return np.allclose(self.matrix, np.column_stack([np.eye(3) * gain, np.full(3, offset)]), atol=1e-9)

    def _grey(self) -> tuple[float, float]:
        """What becomes of grey: gain and offset of its luma."""
        return float(LUMA @ self.matrix[:, :3].sum(1)), float(LUMA @ self.matrix[:, 3])


def _tone(image: np.ndarray, gain: float, offset: float, gamma: float) -> np.ndarray:
    """clip(gain x + offset)^gamma, for integers by a table of all levels."""
    if image.dtype == np.float32:
        return ((image * gain + offset).clip(0, 1) ** gamma).astype(np.float32)
    light = white(image.dtype)
    levels = np.arange(light + 1) / light
    table = ((gain * levels + offset).clip(0, 1) ** gamma * light).round().astype(image.dtype)
    return cv2.LUT(image, table).reshape(image.shape) if image.dtype == np.uint8 else table[image]


def mean_colour(image: np.ndarray) -> np.ndarray:
    """The mean RGB (3,) of a picture, in [0, 1]."""
    mean = np.array(cv2.mean(image[..., :3] if image.shape[2] > 4 else image)[:3]) / white(image.dtype)
    return mean if image.shape[2] > 2 else mean[[0, 0, 0]]


class Colour:
    """A transform that is a `Look`; `Compose` multiplies those in a row into one."""

    def look(self, mean: np.ndarray, rng: np.random.Generator) -> Look:
        """The look for a picture of this mean colour (3,), drawn from the generator."""
        raise NotImplementedError

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Others | None = None) -> Sample:
        """The sample so seen."""
        return self.look(mean_colour(sample.image), rng)(sample)


class ColorJitter(Colour):
    """Random brightness, contrast, saturation and hue.

    brightness, contrast, saturation: a factor from [max(0, 1 - v), 1 + v], or from the pair given; contrast
    stretches about the picture's mean luma, saturation about each pixel's. hue: a turn from [-v, v], or from
    the pair given, as a part of the full circle.
    """

    def __init__(
        self,
        brightness: float | Range = 0.0,
        contrast: float | Range = 0.0,
        saturation: float | Range = 0.0,
        hue: float | Range = 0.0,
        p: float = 1.0,
    ) -> None:
        self.brightness, self.contrast, self.saturation = (
            v if isinstance(v, tuple) else (max(0.0, 1 - v), 1 + v)
            for v in (brightness, contrast, saturation)
        )
        self.hue = hue if isinstance(hue, tuple) else (-hue, hue)
        self.p = p

    def look(self, mean: np.ndarray, rng: np.random.Generator) -> Look:
        """One draw of the four."""
        if rng.random() >= self.p:
            return Look(np.eye(3, 4))
        ranges = (self.brightness, self.contrast, self.saturation, self.hue)
        brightness, contrast, saturation, hue = (rng.uniform(*r) for r in ranges)
        return colour_look(brightness, contrast, saturation, hue, mean)


def colour_look(
    brightness: float = 1.0,
    contrast: float = 1.0,
    saturation: float = 1.0,
    hue: float = 0.0,
    mean: np.ndarray | None = None,
) -> Look:
    """The look of these factors (1 leaves all as it is) and this turn of hue, a part of the circle.

    mean: (3,), the picture's mean colour in [0, 1], which contrast needs.
    """
    cos, sin = np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue)
    turn = RGB @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ YIQ
    linear = turn @ (saturation * np.eye(3) + (1 - saturation) * GREY) * brightness
    luma = 0.5 if mean is None else float(LUMA @ mean) * brightness
    return Look.of(contrast * linear, (1 - contrast) * luma)


class RandomGrayscale(Colour):
    """With probability `p` every channel becomes the luma."""

    def __init__(self, p: float = 0.1) -> None:
        self.p = p

    def look(self, mean: np.ndarray, rng: np.random.Generator) -> Look:
        """Grey or not."""
        return Look.of(GREY if rng.random() < self.p else np.eye(3))


class RandomGamma(Colour):
    """Light to a power drawn log-uniformly from `gamma`, with probability `p`."""

    def __init__(self, gamma: Range = (0.8, 1.25), p: float = 0.5) -> None:
        self.gamma, self.p = gamma, p

    def look(self, mean: np.ndarray, rng: np.random.Generator) -> Look:
        """One power."""
        power = float(np.exp(rng.uniform(*np.log(self.gamma))))
        return Look(np.eye(3, 4), power if rng.random() < self.p else 1.0)


class HSVJitter:
    """Random exposure and saturation in HSV, as YOLO is trained (Redmon et al. 2016, arXiv 1506.02640, section 2.2).

    The value and the saturation of every pixel are multiplied by factors from [1 / v, v], log-uniform; what leaves the
    range of light is cut off. Pictures of one or two channels have exposure alone; of more than three the first three
    are RGB and the others stay.
    """

    def __init__(self, exposure: float = 1.5, saturation: float = 1.5) -> None:
        self.limits = np.log([exposure, saturation])

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Others | None = None) -> Sample:
        """The sample so seen, and `clean` with it."""
        exposure, saturation = np.exp(rng.uniform(-self.limits, self.limits)).tolist()
        targets = sample.targets
        if "clean" in targets:
            clean = np.ascontiguousarray(targets["clean"].transpose(1, 2, 0))
            clean = expose(clean, exposure, saturation)
            targets = {**targets, "clean": np.ascontiguousarray(clean.transpose(2, 0, 1))}
        return sample.with_(image=expose(sample.image, exposure, saturation), targets=targets)


def expose(image: np.ndarray, exposure: float, saturation: float) -> np.ndarray:
    """A picture (h, w, c) with HSV's value and saturation multiplied, of the same type.

    With the value V = max(R, G, B), a channel C becomes exposure * (V - saturation * (V - C)): no hue need be known.
    """
    if image.shape[2] > 3:
        return np.concatenate([expose(image[..., :3], exposure, saturation), image[..., 3:]], 2)
    value = image
    if image.shape[2] == 3:
        red, green, blue = cv2.split(image)
        value = cv2.merge([cv2.max(cv2.max(red, green), blue)] * 3)
    mixed = cv2.addWeighted(image, exposure * saturation, value, exposure * (1 - saturation), 0)
    mixed = mixed.reshape(image.shape)
    return mixed.clip(0, 1) if image.dtype == np.float32 else mixed


# What damages the picture only: nothing else of the sample moves, `clean` least of all


class GaussianNoise:
    """Adds white noise of a standard deviation drawn from `sigma`, in [0, 1], with probability `p`."""

    def __init__(self, sigma: Range = (0.0, 0.1), p: float = 0.5) -> None:
        self.sigma, self.p = sigma, p

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Others | None = None) -> Sample:
        """The noisy sample."""
        if rng.random() >= self.p:
            return sample
        image, light = sample.image, white(sample.image.dtype)
        noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(*self.sigma) * light)
        noisy = (image + noise).clip(0, light)
        return sample.with_(image=noisy if image.dtype == np.float32 else noisy.round().astype(image.dtype))


class GaussianBlur:
    """Smooths with a Gaussian of a standard deviation drawn from `sigma`, in pixels, with probability `p`."""

    def __init__(self, sigma: Range = (0.1, 2.0), p: float = 0.5) -> None:
        self.sigma, self.p = sigma, p

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Others | None = None) -> Sample:
        """The blurred sample."""
        if rng.random() >= self.p:
            return sample
        blurred = cv2.GaussianBlur(sample.image, (0, 0), float(rng.uniform(*self.sigma)))
        return sample.with_(image=blurred.reshape(sample.image.shape))


class RandomErasing:
    """Hides a random rectangle (Zhong et al. 2020, arXiv 1708.04896, algorithm 1).

    scale: the rectangle's part of the picture's area. ratio: height over width. value: light in [0, 1], or
    None for noise. The targets stay: what is hidden is still there.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: Range = (0.02, 0.33),
        ratio: Range = (0.3, 3.3),
        value: float | None = None,
    ) -> None:
        self.p, self.scale, self.ratio, self.value = p, scale, ratio, value

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Others | None = None) -> Sample:
        """The sample with its rectangle hidden; unchanged where ten draws do not fit into it."""
        if rng.random() >= self.p:
            return sample
        h, w = sample.image.shape[:2]
        for _ in range(10):
            area, ratio = h * w * rng.uniform(*self.scale), np.exp(rng.uniform(*np.log(self.ratio)))
            height, width = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if 0 < height < h and 0 < width < w:
                top, left = rng.integers(h - height + 1), rng.integers(w - width + 1)
                return _hide(sample, slice(top, top + height), slice(left, left + width), self.value, rng)
        return sample


class Cutout:
    """Hides a square of `side` pixels about a random point (DeVries and Taylor 2017, arXiv 1708.04552)."""

    def __init__(self, side: int, p: float = 1.0, value: float | None = 0.0) -> None:
        self.side, self.p, self.value = side, p, value

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Others | None = None) -> Sample:
        """The sample with the part of the square that lies inside hidden."""
        if rng.random() >= self.p:
            return sample
        y, x = (int(rng.integers(n)) - self.side // 2 for n in sample.image.shape[:2])
        rows, columns = (slice(max(0, v), max(0, v + self.side)) for v in (y, x))
        return _hide(sample, rows, columns, self.value, rng)


def _hide(
    sample: Sample, rows: slice, columns: slice, value: float | None, rng: np.random.Generator
) -> Sample:
    image = sample.image.copy()
    part = image[rows, columns]
    light = white(image.dtype)
    part[:] = value * light if value is not None else rng.random(part.shape, np.float32) * light
    return sample.with_(image=image)
