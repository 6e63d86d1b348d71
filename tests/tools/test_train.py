"""Training: what it writes, that it repeats and resumes bit for bit, and how it ends when it cannot go on."""

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from retinue.datasets.targets import DataError, Pictures
from retinue.tasks import model_file
from retinue.tasks.task import Model
from retinue.tools import command, loop, state, train
from retinue.tools.evaluate import evaluate
from retinue.tools.loader import epoch_batches, share
from retinue.tools.options import UsageError
from retinue.tools.run_folder import finite
from retinue.tools.schedule import Ema, Plateau, factor
from retinue.tools.step import TrainingStopped

SMALL: dict[str, Any] = {
    "data": "scenes:20", "backbone": "resnet18", "imgsz": 32, "batch": 8, "epochs": 2, "workers": 0,
}  # fmt: skip


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "results.csv").read_text().splitlines()))


def run(project: Path, **settings: Any) -> Path:
    return train.train("classification", **{**SMALL, "project": str(project), **settings})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs"), ema=0.9, clip=1.0)


def test_the_run_folder_is_complete(finished: Path) -> None:
    names = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    assert {
        "args.yaml", "results.csv", "results.png", "train.log", "env.txt", "first_batch.jpg", "val_predictions.jpg",
        "confusion.png", "weights/best.safetensors", "weights/last.safetensors", "state/state.pt", "state/previous.pt",
    } <= names  # fmt: skip
    args = yaml.safe_load((finished / "args.yaml").read_text())
    assert args["epochs"] == 2 and args["task"] == "classification" and args["backbone_lr"] == 0.001
    rows = table(finished)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"train/ce", "lr/head", "lr/backbone", "top1", "loss"} <= rows[0].keys()


def test_eval_gives_the_numbers_that_training_printed(finished: Path, tmp_path: Path) -> None:
    header = model_file.read_header(finished / "weights/last.safetensors")
    values = evaluate(
        str(finished / "weights/last.safetensors"), data="scenes:20", plots=str(tmp_path), workers=0
    )
    assert values["top1"] >= 0 and finite(values) == header["metrics"]


def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = run(tmp_path, mixup=0.2), run(tmp_path, mixup=0.2, workers=1)
    assert first != second
    for name in ("weights/last.safetensors", "weights/best.safetensors", "results.csv"):
        assert digest(first / name) == digest(second / name)


@pytest.mark.parametrize(
    "options", [{}, {"ema": 0.9, "optimizer": "sgd", "schedule": "plateau", "mixup": 0.2}]
)
def test_resume_equals_a_straight_run(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = run(tmp_path, epochs=3, **options)
    interrupted = tmp_path / "classification/broken"
    real, calls = loop.descend, []

    def fails_in_the_middle(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:  # in the second of three epochs of three steps
            if not options:
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)  # asks: the step is finished and saved
        return real(*arguments)

    monkeypatch.setattr(loop, "descend", fails_in_the_middle)
    with pytest.raises((KeyboardInterrupt, TrainingStopped)):
        run(tmp_path, epochs=3, name="broken", save_minutes=0.0, **options)
    monkeypatch.undo()
    assert torch.load(interrupted / "state/state.pt", weights_only=True)["step"] == (2 if options else 1)
    train.train(resume=str(interrupted))
    for name in ("weights/last.safetensors", "weights/best.safetensors", "results.csv"):
        assert digest(straight / name) == digest(interrupted / name), name


def test_resume_refuses_other_options_but_not_other_workers(finished: Path) -> None:
    with pytest.raises(UsageError, match="epochs is 2, not 5"):
        train.train(resume=str(finished), epochs=5)
    before = digest(finished / "weights/last.safetensors")
    assert train.train(resume=str(finished), workers=1) == finished
    assert digest(finished / "weights/last.safetensors") == before


def test_model_starts_a_new_run_from_weights(finished: Path, tmp_path: Path) -> None:
    new = run(tmp_path, model=str(finished), epochs=1, lr="0", backbone_lr=0.0, frozen_norm=True)
    old = load_file(finished / "weights/best.safetensors")
    assert all(
        torch.equal(old[name], tensor) for name, tensor in load_file(new / "weights/last.safetensors").items()
    )


def test_tune_head_leaves_the_backbone_as_it_was(finished: Path, tmp_path: Path) -> None:
    new = run(tmp_path, model=str(finished), epochs=1, tune="head", label_smoothing=0.1)
    old, tensors = (
        load_file(finished / "weights/best.safetensors"),
        load_file(new / "weights/last.safetensors"),
    )
    for name, tensor in tensors.items():
        assert torch.equal(old[name], tensor) == name.startswith("backbone."), name


def test_out_of_memory_splits_the_batch_and_gives_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"backbone": "lenet5", "epochs": 1}
    whole = run(tmp_path, **settings)
    real = Model.forward

    def small_memory(self: Model, pictures: Pictures, targets: Any) -> Any:
        if len(pictures) > 2:
            raise torch.OutOfMemoryError("no room for more than 2 pictures")
        return real(self, pictures, targets)

    monkeypatch.setattr(Model, "forward", small_memory)
    split = run(tmp_path, **settings)
    assert "in 4 pieces" in capsys.readouterr().out
    one, two = (load_file(path / "weights/last.safetensors") for path in (whole, split))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_out_of_memory_that_splitting_cannot_help_names_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> Any:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate")

    monkeypatch.setattr(Model, "forward", no_memory)
    with pytest.raises(TrainingStopped, match=r"train/0000\d\d.*smaller imgsz"):
        run(tmp_path)


def test_a_loss_that_is_not_finite_ends_with_names_and_keeps_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.descend

    def poison(setup: Any, run: Any, *rest: Any) -> Any:
        if run.epoch == 1:
            with torch.no_grad():
                next(run.model.parameters()).fill_(float("nan"))
        return real(setup, run, *rest)

    monkeypatch.setattr(loop, "descend", poison)
    with pytest.raises(TrainingStopped, match=r"not finite.*train/0000\d\d.*lower lr"):
        run(tmp_path, name="poisoned")
    kept = state.read(tmp_path / "classification/poisoned/state")
    assert kept and kept["epoch"] == 1
    assert all(t.isfinite().all() for t in kept["model"].values())


def test_json_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{key}={value}" for key, value in SMALL.items()]
    assert command.main(["train", "classification", *words, f"project={tmp_path}", "json=-", "epochs=1"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["epochs"][0]["epoch"] == 1 and "results in" in shown.err


def test_patience_stops(tmp_path: Path) -> None:
    folder = run(tmp_path, backbone="lenet5", epochs=9, patience=2, lr="0", warmup=0.0)
    assert len(table(folder)) == 3


def test_validated_every_other_epoch_and_at_the_end(tmp_path: Path) -> None:
    """Between, nothing is judged: the best of epochs 2, 4 and 5 is one of these, and patience counts them alone."""
    folder = run(tmp_path, backbone="lenet5", epochs=5, eval_every=2, patience=2)
    rows = table(folder)
    assert [bool(row["top1"]) for row in rows] == [False, True, False, True, True]
    saved = model_file.read_header(folder / "weights/best.safetensors")
    assert saved["epoch"] in (2, 4, 5)
    stopped = run(
        tmp_path, backbone="lenet5", epochs=9, eval_every=2, patience=2, lr="0", warmup=0.0, name="s"
    )
    assert len(table(stopped)) == 6


def test_lr_finder_picks_a_rate_and_leaves_the_model_alone(tmp_path: Path) -> None:
    folder = run(tmp_path, backbone="lenet5", lr="find", epochs=1)
    args = yaml.safe_load((folder / "args.yaml").read_text())
    assert 1e-6 < float(args["lr"]) < 1


def test_runs_are_never_overwritten_unasked(tmp_path: Path) -> None:
    options = {"backbone": "lenet5", "epochs": 1, "name": "same"}
    assert [run(tmp_path, **options).name for _ in range(2)] == ["same", "same-2"]
    assert run(tmp_path, **options, exist_ok=True).name == "same"


def test_a_full_disk_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state.write(tmp_path, {"epoch": 1})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(state.StateError, match=r"No space left.*resume="):
        state.write(tmp_path, {"epoch": 2})
    assert state.read(tmp_path) == {"epoch": 1}
    assert sorted(os.listdir(tmp_path)) == ["state.pt"]


def test_damaged_states_fall_back_to_the_one_before(tmp_path: Path) -> None:
    state.write(tmp_path, {"epoch": 1})
    state.write(tmp_path, {"epoch": 2})
    (tmp_path / "state.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:-100])
    assert state.read(tmp_path) == {"epoch": 1}
    (tmp_path / "previous.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="no whole state is left"):
        state.read(tmp_path)
    assert state.read(tmp_path / "none") is None


def test_ema_of_a_constant_is_the_constant_and_lags_behind_a_change() -> None:
    module = torch.nn.BatchNorm1d(2)
    ema = Ema(module, 0.5)
    ema.update(module)
    assert torch.equal(ema.average["weight"], torch.ones(2))
    with torch.no_grad():
        module.weight.fill_(3)
    ema.decay = 0.0
    ema.update(module)
    assert torch.equal(ema.average["weight"], torch.full((2,), 3.0))


def test_schedules_by_hand() -> None:
    options = train.prepare.__globals__["Train"](epochs=4, warmup=1, schedule="cosine")
    rates = [factor(options, step, 2) for step in range(8)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0]) and rates[5] == pytest.approx(0.5)
    options.schedule, options.step_epochs, options.warmup = "step", 2, 0
    assert [factor(options, step, 2) for step in (0, 3, 4, 8)] == pytest.approx([1, 1, 0.1, 0.01])
    plateau = Plateau(0.1, 2, True)
    assert [plateau.update(score) for score in (1, 1, 1, 2)] == [True, False, False, True]
    assert plateau.factor == pytest.approx(0.1)


def in_processes(count: int, project: Path, name: str, **settings: Any) -> Path:
    """A run of the command in so many processes, each with one thread."""
    words = [f"{key}={value}" for key, value in {**SMALL, **settings, "device": "cpu"}.items()]
    start = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    )
    command = [sys.executable, *start, "-m", "retinue.tools.train", "classification", *words]
    done = subprocess.run(
        [*command, f"project={project}", f"name={name}"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[:4000]
    return project / "classification" / name


def test_two_processes_give_the_curve_and_the_numbers_of_one(tmp_path: Path) -> None:
    one, two = (in_processes(n, tmp_path, f"by{n}", frozen_norm=True) for n in (1, 2))
    curves = [[float(row["train/ce"]) for row in table(folder)] for folder in (one, two)]
    assert curves[1] == pytest.approx(curves[0], abs=1e-4)


def test_two_processes_save_what_they_evaluated_and_find_one_rate(tmp_path: Path) -> None:
    """Batch norms that learn, an epoch that two do not divide evenly, several batches to evaluate."""
    folder = in_processes(
        2, tmp_path, "two", imgsz=64, data="scenes:61", batch=4, epochs=1, lr="find", mixup=0.2
    )
    weights = folder / "weights/last.safetensors"
    printed = model_file.read_header(weights)["metrics"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        values = evaluate(str(weights), data="scenes:61", plots=str(tmp_path), workers=0)
    finally:
        torch.set_num_threads(threads)
    assert finite(values) == printed


@pytest.mark.parametrize(("count", "batch", "ranks"), [(5, 2, 2), (20, 8, 8), (7, 100, 3), (9, 4, 1)])
def test_every_process_has_a_picture_in_every_batch(count: int, batch: int, ranks: int) -> None:
    batches = epoch_batches(count, batch, 0, 0, ranks)
    assert sorted(np.concatenate(batches)) == list(range(count))
    assert all(len(share(b, rank, ranks)) for b in batches for rank in range(ranks))


def test_resume_refuses_other_data_and_needs_no_source(finished: Path, tmp_path: Path) -> None:
    new = run(tmp_path, model=str(shutil.copytree(finished, tmp_path / "source")), epochs=1)
    shutil.rmtree(tmp_path / "source")
    assert train.train(resume=str(new)) == new
    args = yaml.safe_load((new / "args.yaml").read_text())
    (new / "args.yaml").write_text(yaml.safe_dump({**args, "data": "scenes:21"}))
    with pytest.raises(DataError, match="pictures were 20, now 21"):
        train.train(resume=str(new))


def test_a_gradient_that_is_not_finite_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def infinite(*arguments: Any) -> Any:
        raise_it = torch.nn.Parameter.register_hook
        run = arguments[1]
        raise_it(next(run.model.parameters()), lambda gradient: gradient * float("inf"))
        return real(*arguments)

    real = loop.descend
    monkeypatch.setattr(loop, "descend", infinite)
    with pytest.raises(TrainingStopped, match="gradient norm"):
        run(tmp_path, name="infinite")
    kept = state.read(tmp_path / "classification/infinite/state")
    assert kept and kept["step"] == 0 and all(t.isfinite().all() for t in kept["model"].values())
