"""Files of weights: read without executing anything in them; damaged and hostile ones are refused by name."""

import json
import pickle
import struct

import pytest
import safetensors.torch
import torch
import torchvision

from retinue.backbones.weights import WeightsError, read_tensors


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return torchvision.models.resnet18().state_dict()


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def safetensors_file(header: bytes, size: int, data: bytes = b"") -> bytes:
    return struct.pack("<Q", size) + header + data


def overlapping() -> bytes:
    entry = {"dtype": "F32", "shape": [2]}
    header = {"a": {**entry, "data_offsets": [0, 8]}, "b": {**entry, "data_offsets": [4, 12]}}
    text = json.dumps(header).encode()
    return safetensors_file(text, len(text), bytes(12))


HOSTILE = {
    "huge.safetensors": safetensors_file(b"{", 200 << 20) + bytes(1 << 10),
    "overlap.safetensors": overlapping(),
    "empty.safetensors": b"",
    "empty.pth": b"",
    "page.pth": b"<html>not found</html>",
    "number.pth": pickle.dumps(3, protocol=2),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_and_hostile_files_are_refused(name, tmp_path):
    (tmp_path / name).write_bytes(HOSTILE[name])
    with pytest.raises(WeightsError, match=name):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize(
    "write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))]
)
@pytest.mark.parametrize("name", ["evil.pth", "evil.safetensors", "evil"])
def test_nothing_in_a_file_is_executed(write, name, tmp_path):
    mark = tmp_path / "touched"
    write({"conv1.weight": Touch(mark)}, tmp_path / name)
    with pytest.raises(WeightsError, match="evil"):
        read_tensors(tmp_path / name)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_truncated_files_are_refused(name, state, tmp_path):
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match=name):
        read_tensors(path)


def test_missing_and_tensorless_files_are_named(tmp_path):
    with pytest.raises(WeightsError, match="nowhere"):
        read_tensors(tmp_path / "nowhere.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    with pytest.raises(WeightsError, match="no named tensors"):
        read_tensors(tmp_path / "numbers.pth")


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "net_state_dict"])
def test_wrappers_and_prefixes_come_off(wrapper, tmp_path):
    inner = {"module.a": torch.ones(2), "module.b": torch.zeros(1)}
    torch.save({wrapper: inner, "epoch": 3}, tmp_path / "w.pth")
    assert set(read_tensors(tmp_path / "w.pth")) == {"a", "b"}


def test_a_layer_called_model_is_no_wrapper(tmp_path):
    torch.save({"model": torch.ones(2), "module.a": torch.ones(1)}, tmp_path / "w.pth")
    assert set(read_tensors(tmp_path / "w.pth")) == {"model", "module.a"}
