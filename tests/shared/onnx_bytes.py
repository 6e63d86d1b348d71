"""ONNX files of convolutions, written field by field, for what reads them."""

from collections.abc import Iterable, Sequence

import numpy as np
from torch import nn

from retinue.backbones.fold import folded


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: str, value: np.ndarray, packed: bool = False, floats: bool = False) -> bytes:
    """packed: the shape in one field; floats: values as floats, not as raw bytes."""
    shape = (
        field(1, b"".join(map(varint, value.shape))) if packed else b"".join(field(1, n) for n in value.shape)
    )
    data = value.astype(value.dtype.newbyteorder("<")).tobytes()
    kind = {"float32": 1, "int64": 7, "float16": 10}[value.dtype.name]
    return shape + field(2, kind) + field(8, name.encode()) + field(4 if floats else 9, data)


def node(kind: str, inputs: Sequence[str]) -> bytes:
    return b"".join(field(1, name.encode()) for name in inputs) + field(2, b"out") + field(4, kind.encode())


def model(tensors: Sequence[bytes], nodes: Sequence[bytes]) -> bytes:
    graph = (
        b"".join(field(1, n) for n in nodes) + field(2, b"a graph") + b"".join(field(5, t) for t in tensors)
    )
    return field(1, 6) + field(2, b"a program") + field(7, graph) + field(8, field(2, 11))


def of_convolutions(layers: Sequence[tuple[np.ndarray, np.ndarray | None]], **how: bool) -> bytes:
    """A file of convolutions one after the other: weights (outputs, inputs, kh, kw) and biases (outputs,) or None."""
    tensors, nodes = [], []
    for i, (weight, bias) in enumerate(layers):
        tensors.append(tensor(f"w{i}", weight, **how))
        names = ["x", f"w{i}"]
        if bias is not None:
            tensors.append(tensor(f"b{i}", bias, **how))
            names.append(f"b{i}")
        nodes += [node("Conv", names), node("Sigmoid", ["y"])]
    return model(tensors[::-1], nodes)


def of_network(network: nn.Module, order: Iterable[str], more: float = 0.0) -> bytes:
    """A file of a network's convolutions, in this order of their paths, the norms (`bn` beside `conv`) folded in.

    more: what is added to the biases of convolutions that have no norm.
    """
    modules, layers = dict(network.named_modules()), []
    for path in order:
        conv = modules[path]
        assert isinstance(conv, nn.Conv2d)
        norm = modules.get(path.removesuffix("conv") + "bn") if path.endswith(".conv") else None
        weight, bias = (tensor.detach().numpy() for tensor in folded(conv, norm))
        layers.append((weight, bias + (0 if norm else np.float32(more))))
    return of_convolutions(layers)
