"""Where pretrained weights come from: a published name, a file or a URL; and how they get into a backbone."""

import hashlib
import http.client
import math
import os
import re
import sys
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from retinue.backbones.backbone import Backbone, Origin, Preprocessing

LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet, whose terms allow research only"
WRAPPERS = ("state_dict", "model", "net_state_dict")
PUBLISHED_HASH = re.compile(r"-(?!20\d{6}\.)([0-9a-f]{8,64})\.\w+$")  # a date is no hash
TIMEOUT = 30.0  # seconds without a byte

Tensors = dict[str, Tensor]
B = TypeVar("B", bound=Backbone)


class WeightsError(ValueError):
    """Weights cannot be had or do not fit; the message names the file and says what to do."""


@dataclass(frozen=True)
class Weights:
    """One published set of weights.

    `sha256` is the prefix that the file's name carries; `top1` is ImageNet-1K accuracy in percent, measured
    by the publisher under `preprocessing`, and None where the classifier is not part of the file.
    """

    name: str
    url: str
    sha256: str | None
    licence: str
    top1: float | None
    parameters: int
    preprocessing: Preprocessing
    categories: tuple[str, ...]


@cache
def published(architecture: str) -> dict[str, Weights]:
    """torchvision's ImageNet weights of an architecture by name, the default first; {} where it has none."""
    from torchvision.models import get_model_weights  # slow, and only named weights need it

    try:
        members = get_model_weights(architecture)
    except ValueError:
        return {}
    default = getattr(members, "DEFAULT", None)
    ordered = sorted(members, key=lambda member: member is not default)
    return {m.name: _describe(architecture, m) for m in ordered if "ImageNet-1K" in m.meta["_metrics"]}


def _describe(architecture: str, member: Any) -> Weights:
    transform = member.transforms()
    preprocessing = Preprocessing(
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        resize=transform.resize_size[0],
        crop=transform.crop_size[0],
        interpolation=transform.interpolation.value,
        antialias=bool(transform.antialias),
    )
    if architecture == "googlenet":  # converted from TensorFlow; torchvision re-normalises inside the network
        preprocessing = replace(preprocessing, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), pad=())
    top1 = member.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    found = PUBLISHED_HASH.search(member.url)
    return Weights(
        name=member.name,
        url=member.url,
        sha256=found.group(1) if found else None,
        licence=LICENCE,
        top1=None if math.isnan(top1) else top1,
        parameters=member.meta["num_params"],
        preprocessing=preprocessing,
        categories=tuple(member.meta.get("categories") or ()),
    )


# Files


def fetch(url: str, sha256: str | None = None) -> Path:
    """The local copy of a file on the web, downloaded once into torch.hub's folder of checkpoints.

    The content is compared with `sha256` (hex, or a prefix of it), by default the one that the file's name
    carries (`name-0676ba61.pth`), on every call.
    Raises WeightsError: not an http(s) URL, no connection, other content.
    """
    parts = urlsplit(url)
    name = Path(parts.path).name
    if parts.scheme not in ("http", "https") or not name:
        raise WeightsError(f"{url!r} is not the http(s) address of a file: give one, or a local path")
    found = PUBLISHED_HASH.search(name)
    if sha256 is None and found:
        sha256 = found.group(1)
    if sha256 is None:  # two addresses may end in one name
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}_{name}"
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        _download(url, path, sha256)
    elif sha256 is not None:
        _verify(path, sha256, f"delete {path} to fetch it again")
    return path


def _download(url: str, path: Path, sha256: str | None) -> None:
    """To a temporary file beside `path`, which appears only when all of the content is there and right."""
    from rich.console import Console
    from rich.progress import wrap_file

    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response, part.open("wb") as file:
            size = int(response.headers.get("Content-Length") or 0)
            quiet = not sys.stderr.isatty()
            with wrap_file(
                response, size, description=path.name, console=Console(stderr=True), disable=quiet
            ) as r:
                while chunk := r.read(1 << 20):
                    file.write(chunk)
            if size and file.tell() != size:
                raise OSError(f"{file.tell()} of {size} bytes arrived")
        if sha256 is not None:
            _verify(part, sha256, f"the address {url} serves another file than its name says")
        os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        raise WeightsError(
            f"cannot fetch {url}: {error}. Download it elsewhere and give the file's path as weights"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(path: Path, sha256: str, remedy: str) -> None:
    actual = _sha256(path)
    if not actual.startswith(sha256.lower()):
        raise WeightsError(f"{path}: expected sha256 {sha256}, actual {actual[: len(sha256)]}: {remedy}")


def read_tensors(path: str | Path) -> Tensors:
    """The named tensors of a .safetensors or torch file; nothing in the file is ever executed.

    Common wrappers ("state_dict", "model", ...) and a "module." prefix are taken off. Raises WeightsError.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file may fail in any way
        reason = str(error).strip().split("\n")[0][:200]
        raise WeightsError(
            f"{path}: not a readable file of tensors ({type(error).__name__}: {reason}). "
            "Fetch it again, or save the network's state_dict() as .safetensors"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise WeightsError(f"{path}: holds no named tensors. Save the network's state_dict()")
    return _without_prefix(tensors, "module.") if all(k.startswith("module.") for k in tensors) else tensors


def _without_prefix(tensors: Tensors, prefix: str) -> Tensors:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


# Into a backbone


def load(
    backbone: B,
    architecture: str,
    source: str | None,
    options: dict[str, Any],
    read: Callable[[Path], Tensors] = read_tensors,
) -> B:
    """Finish a builder's work: record how `backbone` was built and give it its weights. Returns it.

    `source`: None (random weights stay), "imagenet" (the default published ones), a published name in any
    case, a local file, or an http(s) URL. `read`: what gives a file's tensors by the backbone's names. The first
    convolution is adapted to `backbone.in_channels`. The classifier stays random where the file has none.
    Raises WeightsError for weights that are unknown, unreadable or misfit.
    """
    backbone.architecture, backbone.options = architecture, dict(options)
    if source is None:
        return backbone
    choice = published(architecture)
    path, weights = locate(source, choice, architecture, default="imagenet")
    tensors = read(path)
    if any(key.startswith("backbone.") for key in tensors):  # a model that we saved
        tensors = _without_prefix(tensors, "backbone.")
    classes = insert(backbone, tensors, str(path))
    backbone.new_top = classes is None
    # A file of unknown origin is prepared for as the first published weights were.
    known = weights or choice.get("IMAGENET1K_V1") or next(iter(choice.values()), None)
    if known is not None:
        backbone.prepare_for(known.preprocessing)
        if classes == len(known.categories):
            backbone.categories = known.categories
    if weights is not None:
        backbone.weights = Origin(weights.url, weights.licence, weights.top1)
    else:
        backbone.weights = Origin(str(source))
    return backbone


def locate(
    source: str, choice: Mapping[str, Weights], what: str, default: str
) -> tuple[Path, Weights | None]:
    """The local file of `source`, and what was published about it, by its content where its name does not say.

    source: the word `default`, which is the first of `choice`; the name of one of them, in any case; a local file;
    an http(s) URL. what: whose weights they are, for the message. Raises WeightsError where it is none of these.
    """
    if "://" in source:
        path = fetch(source)
        return path, {w.url: w for w in choice.values()}.get(source) or _recognised(path, choice)
    name = next(iter(choice), "") if source.lower() == default else source.upper()
    if name in choice:
        return fetch(choice[name].url, choice[name].sha256), choice[name]
    if (path := Path(source).expanduser()).is_file():
        known = {Path(w.url).name: w for w in choice.values()}.get(path.name)
        if known is not None and known.sha256 is not None:
            _verify(path, known.sha256, "fetch it again, or rename it if it is another file")
        return path, known or _recognised(path, choice)
    close = get_close_matches(source.upper(), choice, n=3, cutoff=0.3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise WeightsError(
        f"no weights {source!r} for {what}: {hint}There is no such file, and the published weights "
        f"are {[default, *choice] if choice else 'none'}. Give one of them, a local file or an http(s) URL"
    )


def _recognised(path: Path, choice: Mapping[str, Weights]) -> Weights | None:
    """Which of the published files this one is, whatever it is called."""
    digest = _sha256(path)
    return next((w for w in choice.values() if w.sha256 and digest.startswith(w.sha256)), None)


def insert(backbone: Backbone, tensors: Tensors, name: str) -> int | None:
    """Copy `tensors` into the backbone, first convolution adapted; the classifier only where they have it.

    Returns the number of classes of the classifier that was loaded, None if none was. Raises WeightsError,
    with `name` in front, and leaves the backbone as it was, when keys or shapes differ.
    """
    own = backbone.state_dict()
    given = _adapt_first(backbone, tensors)
    for top in backbone.top_modules:
        keys = [key for key in given if key.startswith(f"{top}.")]
        # torchvision's VGG "features" files carry a classifier of NaN
        if not hasattr(backbone, top) or not all(given[key].isfinite().all() for key in keys):
            given = {key: value for key, value in given.items() if key not in keys}
            keys = []
        if not keys:
            own = {key: value for key, value in own.items() if not key.startswith(f"{top}.")}
    compare(own, given, name)
    backbone.load_state_dict(given, strict=False)  # casts half precision up
    last = [key for key in given if key.split(".")[0] in backbone.top_modules]
    return given[last[-1]].shape[0] if last else None


def _adapt_first(backbone: Backbone, tensors: Tensors) -> Tensors:
    """Weights over RGB become weights over `in_channels`: the sum for grey, else a scaled cyclic repeat."""
    first = next((name for name, m in backbone.named_modules() if isinstance(m, nn.Conv2d)), None)
    key, channels = f"{first}.weight", backbone.in_channels
    weight = tensors.get(key)
    if weight is None or weight.dim() != 4 or weight.shape[1] != 3 or channels == 3:
        return dict(tensors)
    weight = weight.float()
    if channels == 1:
        return {**tensors, key: weight.sum(1, keepdim=True)}
    return {**tensors, key: weight[:, [i % 3 for i in range(channels)]] * (3 / channels)}


def compare(own: Tensors, given: Tensors, name: str) -> None:
    """Raises WeightsError unless keys (batch counters aside) and shapes agree and all values are finite."""
    counter = "num_batches_tracked"
    missing = [key for key in own if key not in given and not key.endswith(counter)]
    unexpected = [key for key in given if key not in own and not key.endswith(counter)]
    if missing or unexpected:
        raise WeightsError(
            f"{name}: these weights are of another network: {len(missing)} keys are missing {missing[:3]}, "
            f"{len(unexpected)} are unexpected {unexpected[:3]}. Choose the backbone they were trained with"
        )
    for key, value in given.items():
        if key not in own:
            continue
        if value.shape != own[key].shape:
            raise WeightsError(
                f"{name}: {key} has shape {tuple(value.shape)}, this backbone needs {tuple(own[key].shape)}. "
                "Build it with the file's number of classes and options; a task brings its own last layer"
            )
        if not value.isfinite().all():
            raise WeightsError(f"{name}: {key} holds NaN or infinity: fetch or train these weights again")
