"""The convolutions of an ONNX file, read without the onnx package: nothing is executed, all lengths are checked.

An ONNX file is a protocol buffer (https://protobuf.dev/programming-guides/encoding): fields of a number, a kind and a
value, some of which are messages of fields again. The numbers used here are those of ModelProto, GraphProto, NodeProto
and TensorProto in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retinue.backbones.weights import WeightsError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FLOAT32 = 1
LARGEST_FILE = 2**31
"""Bytes that a protocol buffer has at most."""

Field = tuple[int, int, int | memoryview]
"""Number, kind, and value: bytes of a field of kind BYTES, a whole number of any other."""


class Convolution(NamedTuple):
    """weight: (outputs, inputs / groups, kh, kw) float32. bias: (outputs,) float32, or None."""

    weight: Tensor
    bias: Tensor | None


def read_convolutions(path: str | Path) -> list[Convolution]:
    """The convolutions of a file's graph, in the order of its nodes, which is one of execution.

    Raises WeightsError, naming the file, where it is no whole ONNX file or holds no float32 convolutions of its own.
    """
    path = Path(path)
    try:
        if not 0 < path.stat().st_size < LARGEST_FILE:
            raise ValueError(f"{path.stat().st_size} bytes")
        data = memoryview(path.read_bytes())
        graph = _only([_bytes(field) for field in fields(data) if field[0] == 7], "graph")
        parts = list(fields(graph))
        tensors = dict(_tensor(_bytes(field)) for field in parts if field[0] == 5)
        nodes = [_node(_bytes(field)) for field in parts if field[0] == 1]
        found = [_convolution(inputs, tensors) for kind, inputs in nodes if kind == "Conv"]
    except (ValueError, KeyError, UnicodeDecodeError, OSError) as error:
        raise WeightsError(
            f"{path}: no whole ONNX file of float32 convolutions ({error}): fetch or export it again"
        ) from error
    if not found:
        raise WeightsError(f"{path}: an ONNX file without convolutions: give a network's own")
    return found


def fields(data: memoryview) -> Iterator[Field]:
    """The fields of a message. Raises ValueError where it is cut off or is none."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, kind, value
            continue
        if kind == BYTES:
            length, at = _varint(data, at)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"a field of kind {kind} at byte {at}")
        if length > len(data) - at:
            raise ValueError(f"a field of {length} bytes where {len(data) - at} are left")
        part, at = data[at : at + length], at + length
        yield number, kind, part if kind == BYTES else int.from_bytes(part, "little")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A whole number, seven bits a byte, the lowest first; and where the next begins."""
    value = 0
    for i in range(10):
        if at + i >= len(data):
            raise ValueError("the file ends within a number")
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError(f"a number of more than ten bytes at byte {at}")


def _bytes(field: Field) -> memoryview:
    if not isinstance(field[2], memoryview):
        raise ValueError(f"field {field[0]} is a number, not a message")
    return field[2]


def _only(values: list[memoryview], what: str) -> memoryview:
    if len(values) != 1:
        raise ValueError(f"{len(values)} values for {what}, not one")
    return values[0]


def _node(data: memoryview) -> tuple[str, list[str]]:
    """A node's kind and the names of its inputs."""
    kind, inputs = "", []
    for field in fields(data):
        if field[0] == 4:
            kind = str(_bytes(field), "utf-8")
        elif field[0] == 1:
            inputs.append(str(_bytes(field), "utf-8"))
    return kind, inputs


def _tensor(data: memoryview) -> tuple[str, Tensor | None]:
    """A tensor's name, and its values where they are float32 and stand in the file as raw bytes or floats."""
    name, kind, shape = "", 0, []
    values = memoryview(b"")
    for field in fields(data):
        number, _, value = field
        if number == 1:  # one a field, or several in one
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = str(_bytes(field), "utf-8")
        elif number in (4, 9) and not len(values):  # packed floats, or raw bytes: both little endian
            values = _bytes(field)
    if kind != FLOAT32:
        return name, None
    if math.prod(shape) * 4 != len(values):
        raise ValueError(f"{name} has shape {shape} but {len(values)} bytes")
    array = np.frombuffer(values, "<f4").astype(np.float32).reshape(shape)
    return name, torch.from_numpy(array)


def _varints(data: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found


def _convolution(inputs: list[str], tensors: dict[str, Tensor | None]) -> Convolution:
    weight, bias = (tensors.get(name) if name else None for name in [*inputs[1:3], "", ""][:2])
    if weight is None or weight.dim() != 4 or (len(inputs) > 2 and inputs[2] and bias is None):
        raise ValueError(f"the convolution of {inputs} has no float32 weights in this file")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{inputs[2]} has shape {tuple(bias.shape)}, not {tuple(weight.shape[:1])}")
    return Convolution(weight, bias)
