"""Files that are not what they say, through every way a model or a state is read: named, refused, nothing happens."""

import contextlib
import json
import os
import pickle
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from retinue.backbones import WeightsError
from retinue.datasets.targets import DataError
from retinue.tasks import model_file
from retinue.tools import command
from retinue.tools.options import UsageError
from retinue.tools.setup import prepare

TENSORS = {"w": torch.zeros(2)}


class Touch:
    """Unpickled, it touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def raw(header: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    """A safetensors file by hand: the header's length, the header, the data."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(start: int, stop: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(stop - start) // 4], "data_offsets": [start, stop]}


def damaged(name: str, path: Path, good: Path, mark: Path) -> None:
    """Write one hostile file."""
    whole = good.read_bytes()
    contents: dict[str, Callable[[], bytes]] = {
        "pickle": lambda: pickle.dumps(Touch(mark)),
        "torch pickle": lambda: b"",
        "truncated": lambda: whole[: len(whole) * 2 // 3],
        "cut in the header": lambda: whole[:40],
        "empty": lambda: b"",
        "huge header": lambda: raw(b"{" + b" " * 100, length=200 * 2**20),
        "header longer than any file": lambda: raw(b"{}", length=2**63),
        "overlap": lambda: raw(json.dumps({"a": entry(0, 8), "b": entry(4, 12)}).encode(), data=b"\0" * 12),
        "hole": lambda: raw(json.dumps({"a": entry(0, 4), "b": entry(8, 12)}).encode(), data=b"\0" * 12),
        "past the end": lambda: raw(json.dumps({"a": entry(0, 2**40)}).encode(), data=b"\0" * 12),
        "deep json": lambda: safetensors.torch.save(TENSORS, {"retinue": "[" * 100_000}),
    }
    path.write_bytes(contents[name]())
    if name == "torch pickle":
        torch.save({"model": Touch(mark)}, path)


DAMAGED = [
    "pickle", "torch pickle", "truncated", "cut in the header", "empty", "huge header", "header longer than any file",
    "overlap", "hole", "past the end", "deep json",
]  # fmt: skip


def headers(good: dict[str, Any]) -> dict[str, Any]:
    """Headers that read well as json and are wrong."""
    task = good["tasks"]["classification"]
    backbone = good["backbone"]

    def with_task(**changes: Any) -> dict[str, Any]:
        return {**good, "tasks": {"classification": {**task, **changes}}}

    def with_backbone(**changes: Any) -> dict[str, Any]:
        return {**good, "backbone": {**backbone, **changes}}

    return {
        "unknown task": with_task(module="segmentation.dream"),
        "a module outside": with_task(module="os"),
        "unknown backbone": with_backbone(architecture="resnet_of_dreams"),
        "weights to fetch": with_backbone(options={"weights": "http://192.0.2.1/x.pth"}),
        "weights below an fpn": with_backbone(
            architecture="fpn", options={"body": "lenet5", "body_options": {"weights": "http://192.0.2.1/x.pth"}}
        ),
        "newer format": {**good, "format": model_file.FORMAT + 1},
        "format of text": {**good, "format": "9"},
        "a list": [1, 2],
        "nothing": {},
        "no tasks": {**good, "tasks": {}},
        "tasks as text": {**good, "tasks": "classification"},
        "settings of another": with_task(settings={"dreams": 3}),
        "fewer classes": with_task(classes={"names": ["blue"], "ids": ["blue"]}),
        "classes of numbers": with_task(classes=7),
        "a mean of text": with_backbone(preprocessing={**backbone["preprocessing"], "mean": "grey"}),
        "a billion channels": with_backbone(options={"in_channels": 10**12}),
        "side of minus one": {**good, "imgsz": -1},
        "side of text": {**good, "imgsz": "large"},
    }  # fmt: skip


NAMES = list(headers({"tasks": {"classification": {}}, "backbone": {"preprocessing": {}}}))


def refused(words: list[str], capsys: pytest.CaptureFixture[str], named: str) -> str:
    """Run a command: it must end within a second with status 2 and name the file. Returns what it said."""
    begin = time.perf_counter()
    status = command.main(words)
    seconds = time.perf_counter() - begin
    shown = capsys.readouterr().err
    assert status == 2, shown[-2000:]
    assert "Traceback" not in shown and named in shown.splitlines()[-1] + shown
    assert seconds < 1, seconds
    return shown


def commands(hostile: Path, folder: Path, data: Path, picture: Path) -> dict[str, list[str]]:
    """Every way to read a saved model."""
    train = ["train", "classification", f"data={data}", "imgsz=32", "batch=2", "epochs=1", "workers=0"]
    train.append(f"project={folder}")
    return {
        "predict": ["predict", str(hostile), str(picture), f"project={folder}"],
        "eval": ["eval", str(hostile), f"data={data}", "workers=0"],
        "model": [*train, f"model={hostile}"],
    }


@pytest.fixture
def world(paint_folder: Any, tmp_path: Path) -> tuple[Path, Path, Path]:
    """(data, a picture, a folder for output)."""
    data = paint_folder(tmp_path / "data", train={"blue": 2, "red": 2}, val={"blue": 1, "red": 1})
    return data, data / "val/red/0.png", tmp_path / "out"


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(
    name: str, world: Any, saved: Path, tmp_path: Path, capsys: Any, no_network: list[str]
) -> None:
    data, picture, out = world
    mark, hostile = tmp_path / "touched", tmp_path / "hostile.safetensors"
    damaged(name, hostile, saved, mark)
    for words in commands(hostile, out, data, picture).values():
        refused(words, capsys, "hostile.safetensors")
    for suffix in (".safetensors", ".pth"):
        weights = hostile.with_suffix(suffix)
        damaged(name, weights, saved, mark)
        train = commands(hostile, out, data, picture)["model"][:-1]
        refused([*train, "backbone=lenet5", f"weights={weights}"], capsys, weights.name)
    assert not mark.exists() and no_network == []
    assert not out.exists()


@pytest.mark.parametrize("name", NAMES)
def test_hostile_headers(
    name: str, world: Any, saved: Path, tiny: Any, tmp_path: Path, capsys: Any, no_network: list[str]
) -> None:
    data, picture, out = world
    value = headers(model_file.read_header(saved))[name]
    hostile = tmp_path / "hostile.safetensors"
    hostile.write_bytes(safetensors.torch.save(tiny().state_dict(), {"retinue": json.dumps(value)}))
    ways = commands(hostile, out, data, picture)
    for words in (ways["predict"], ways["eval"]):
        refused(words, capsys, "hostile.safetensors")
    assert no_network == []
    with contextlib.suppress(
        DataError, UsageError, WeightsError
    ):  # its tensors may do under a head of its own
        prepare(command.parse(ways["model"][1:], "train"))
    assert no_network == []


def test_a_safetensors_file_without_our_header(world: Any, tiny: Any, tmp_path: Path, capsys: Any) -> None:
    data, picture, out = world
    plain = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(tiny().state_dict(), plain)
    for words in commands(plain, out, data, picture).values():
        assert "weights=" in refused(words, capsys, "plain.safetensors")
    train = commands(plain, out, data, picture)["model"][:-1]
    assert (
        command.main([*train, "backbone=lenet5", f"weights={plain}"]) == 0
    )  # it is our own backbone's all the same


@pytest.fixture(scope="module")
def run_once(paint_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("once")
    data = paint_folder(root / "data", train={"blue": 2, "red": 2}, val={"blue": 1, "red": 1})
    words = ["data", str(data)], ["backbone", "lenet5"], ["imgsz", "32"], ["epochs", "1"], ["workers", "0"]
    assert command.main(["train", "classification", *map("=".join, words), f"project={root}", "batch=2"]) == 0
    return root / "classification/lenet5"


@pytest.fixture
def finished(run_once: Path, tmp_path: Path) -> Path:
    """A finished run, to be spoiled."""
    return Path(shutil.copytree(run_once, tmp_path / "run"))


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_states(name: str, finished: Path, saved: Path, tmp_path: Path, capsys: Any) -> None:
    mark = tmp_path / "touched"
    for state in ("state.pt", "previous.pt"):
        damaged(name, finished / "state" / state, saved, mark)
    refused(["train", f"resume={finished}"], capsys, "state.pt")
    assert not mark.exists()


@pytest.mark.parametrize("value", [{}, {"epoch": 1}, [1, 2], 3, {"model": TENSORS}])
def test_states_of_something_else(value: Any, finished: Path, capsys: Any) -> None:
    torch.save(value, finished / "state/state.pt")
    refused(["train", f"resume={finished}"], capsys, "state.pt")


def test_a_state_of_another_model(finished: Path, capsys: Any) -> None:
    state = torch.load(finished / "state/state.pt", weights_only=True)
    state["model"] = {name: tensor[:1] if tensor.ndim else tensor for name, tensor in state["model"].items()}
    torch.save(state, finished / "state/state.pt")
    refused(["train", f"resume={finished}"], capsys, "state.pt")


@pytest.mark.parametrize(
    "text",
    [
        "", "[1, 2]", "task: 3", "task: [", "a: b", "task: classification\nepochs: many", "task: dreams", "\x00",
        "task: classification\ndreams: 3", "task: !!python/object/apply:os.system [exit]",
    ],
)  # fmt: skip
def test_damaged_args(text: str, finished: Path, capsys: Any) -> None:
    (finished / "args.yaml").write_text(text)
    refused(["train", f"resume={finished}"], capsys, "retinue: ")


def test_args_with_a_pickle_do_nothing(finished: Path, tmp_path: Path, capsys: Any) -> None:
    mark = tmp_path / "touched"
    (finished / "args.yaml").write_text(yaml.dump({"task": Touch(mark)}))
    refused(["train", f"resume={finished}"], capsys, "args.yaml")
    assert not mark.exists()


def test_a_pipe_is_no_model(world: Any, tmp_path: Path, capsys: Any) -> None:
    data, picture, out = world
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    for words in commands(pipe, out, data, picture).values():
        refused(words, capsys, "pipe.safetensors")
