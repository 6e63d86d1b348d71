"""ONNX files: their convolutions as they were written; damaged and hostile ones are refused by name, at once."""

import numpy as np
import onnx_bytes as write
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from retinue.backbones.onnx_file import read_convolutions
from retinue.backbones.weights import WeightsError

RNG = np.random.default_rng(0)
LAYERS = [
    (RNG.normal(size=(4, 3, 3, 3)).astype(np.float32), RNG.normal(size=4).astype(np.float32)),
    (RNG.normal(size=(300, 4, 1, 1)).astype(np.float32), None),
]
FILE = write.of_convolutions(LAYERS)


@pytest.mark.parametrize("how", [{}, {"packed": True}, {"floats": True}])
def test_convolutions_in_the_order_of_the_nodes(how, tmp_path):
    (tmp_path / "a.onnx").write_bytes(write.of_convolutions(LAYERS, **how))
    (first, second) = read_convolutions(tmp_path / "a.onnx")
    assert torch.equal(first.weight, torch.from_numpy(LAYERS[0][0]))
    assert torch.equal(first.bias, torch.from_numpy(LAYERS[0][1]))
    assert torch.equal(second.weight, torch.from_numpy(LAYERS[1][0])) and second.bias is None


WEIGHT = write.tensor("w", LAYERS[0][0])
SHORT = write.field(1, 3) + write.field(2, 1) + write.field(8, b"w") + write.field(9, b"12345678")
HUGE = write.field(1, 2**40) + write.field(2, 1) + write.field(8, b"w") + write.field(9, b"1234")
CONV = [write.node("Conv", ["x", "w"])]
HOSTILE = {
    "nothing": b"",
    "text": b"<!DOCTYPE html><html></html>",
    "a pickle": b"\x80\x04\x95\x0c\x00\x00\x00",
    "no graph": write.field(1, 6),
    "a number for a graph": write.field(7, 5),
    "two graphs": FILE + FILE,
    "cut off": FILE[:-200],
    "a length beyond the end": write.varint(7 << 3 | 2) + write.varint(2**60) + b"abc",
    "an endless number": b"\xff" * 40,
    "no convolutions": write.model([WEIGHT], [write.node("Relu", ["w"])]),
    "no weights": write.model([], CONV),
    "weights elsewhere": write.model([write.field(1, 3) + write.field(2, 1) + write.field(8, b"w")], CONV),
    "another type": write.model([write.tensor("w", LAYERS[0][0].astype(np.float16))], CONV),
    "fewer values than the shape says": write.model([SHORT], CONV),
    "a shape beyond memory": write.model([HUGE], CONV),
    "no kernel": write.model([write.tensor("w", LAYERS[0][1])], CONV),
    "another number of biases": write.model(
        [WEIGHT, write.tensor("b", np.zeros(5, np.float32))], [write.node("Conv", ["x", "w", "b"])]
    ),
    "biases that are not there": write.model([WEIGHT], [write.node("Conv", ["x", "w", "b"])]),
    "a name that is no text": write.model([WEIGHT], [write.field(4, b"\xff\xfe")]),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_such_file_is_refused_by_name(what, tmp_path):
    (tmp_path / "a.onnx").write_bytes(HOSTILE[what])
    with pytest.raises(WeightsError, match=r"a\.onnx: (no whole|an) ONNX file"):
        read_convolutions(tmp_path / "a.onnx")


def test_no_file(tmp_path):
    with pytest.raises(WeightsError, match=r"b\.onnx"):
        read_convolutions(tmp_path / "b.onnx")


@given(
    at=st.integers(0, len(FILE) - 1),
    value=st.integers(0, 255),
    cut=st.integers(0, len(FILE)),
)
@example(at=0, value=0, cut=0)
def test_any_damage_is_an_error_of_ours_or_none(at, value, cut, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes((FILE[:at] + bytes([value]) + FILE[at + 1 :])[cut:])
    try:
        found = read_convolutions(path)
    except WeightsError:
        return
    assert all(layer.weight.dim() == 4 for layer in found)
