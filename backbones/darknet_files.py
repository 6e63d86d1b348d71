"""darknet's files of weights (Redmon, https://pjreddie.com/darknet): a short header, then float32 layer by layer.

Everything is little-endian. The header is major, minor and revision of the program, int32 each, and the number of
pictures that the network has seen in training: int64 since version 0.2, int32 before. Then come the layers in the order
of the network's description. A convolution with batch norm has the norm's shifts, scales, means and variances, then
its kernels (outputs, inputs, rows, columns); any other convolution or linear layer has its biases and its weights.
"""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from retinue.backbones.backbone import is_norm
from retinue.backbones.weights import Tensors, WeightsError

LARGEST_VERSION = 1000
"""From here on a version number says that matrices are transposed, or that the file is of another kind."""


class Header(NamedTuple):
    """What a file begins with. `seen`: pictures seen in training."""

    major: int = 0
    minor: int = 2
    revision: int = 0
    seen: int = 0

    @property
    def form(self) -> str:
        """Of the header's bytes, as `struct` names it."""
        return "<iiiq" if self.major * 10 + self.minor >= 2 else "<iiii"


def is_darknet_file(path: str | Path) -> bool:
    """Whether a file begins with plausible version numbers, which no torch or safetensors file does."""
    with open(path, "rb") as file:
        start = file.read(12)
    return len(start) == 12 and all(0 <= number < LARGEST_VERSION for number in struct.unpack("<iii", start))


def read_values(path: str | Path) -> tuple[Header, Tensor]:
    """The header and all numbers (n,) float32 of a file. WeightsError where it is missing, cut off or of another kind.

    The numbers are mapped from the file, which is not read before they are.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights")
    if not is_darknet_file(path):
        raise WeightsError(f"{path}: does not begin with darknet's version numbers; give a .weights file")
    content = np.memmap(path, np.uint8, "c")
    header = Header(*struct.unpack("<iii", content[:12].tobytes()))
    length = struct.calcsize(header.form)
    if len(content) <= length or (len(content) - length) % 4:
        raise WeightsError(
            f"{path}: {len(content)} bytes are no header of {length} and whole numbers of 4; fetch it again"
        )
    header = Header(*struct.unpack(header.form, content[:length].tobytes()))
    return header, torch.from_numpy(content[length:].view("<f4"))


def file_order(network: nn.Module, parts: Iterable[str]) -> list[str]:
    """Names of a network's tensors as a file has them. parts: paths of modules, in the order of the description.

    Within a part layers follow each other as they are defined, each batch norm right after its convolution.
    """
    names: list[str] = []
    for part in parts:
        inner = network.get_submodule(part).named_modules(prefix=part)
        layers = [(p, m) for p, m in inner if isinstance(m, nn.Conv2d | nn.Linear) or is_norm(m)]
        for i, (path, layer) in enumerate(layers):
            if is_norm(layer):
                continue
            norm_path, follower = layers[i + 1] if i + 1 < len(layers) else ("", layer)
            if is_norm(follower):
                names += [f"{norm_path}.{n}" for n in ("bias", "weight", "running_mean", "running_var")]
            else:
                names.append(f"{path}.bias")
            names.append(f"{path}.weight")
    return names


def take(values: Tensor, own: Tensors, names: Sequence[str], source: str) -> Tensors:
    """A file's values (n,) by these names, with the shapes that `own` has under them.

    WeightsError, with `source` in front, where they are more or fewer than needed.
    """
    counts = [own[name].numel() for name in names]
    if sum(counts) != len(values):
        raise WeightsError(
            f"{source}: holds {len(values):,} numbers, this network has {sum(counts):,}: the file is of another "
            "network, or of another number of classes"
        )
    return {name: part.view(own[name].shape) for name, part in zip(names, values.split(counts))}


def to_bytes(tensors: Tensors, names: Sequence[str], header: Header) -> bytes:
    """The content of a file with these tensors in this order."""
    values = [tensors[name].detach().cpu().float().numpy().astype("<f4").tobytes() for name in names]
    return struct.pack(header.form, *header) + b"".join(values)
