"""A run's folder: what was asked, what came of it, and the pictures of both. Never overwritten unasked."""

import csv
import io
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from retinue.datasets.targets import DataError
from retinue.tasks.model_file import write_atomically

NUMBERS = re.compile(r"\[\n([^][{}\"]*)\n *\]")
"""A list of plain numbers as json writes it indented, which no text holds: line breaks are escaped there."""


def new_folder(parent: Path, name: str, args: dict[str, Any], exist_ok: bool = False) -> Path:
    """`parent/name`, or `name-2`, `name-3`, ... where that is taken; `args.yaml` is in it from its first moment.

    `exist_ok` writes into `parent/name` itself, after removing an older run's results; DataError where the folder
    that is there is not a run's.
    """
    if Path(name).name != name or name == "..":
        raise DataError(f"name={name}: a name is one folder's, without /; project= says where it goes")
    taken = parent / name
    ours = (
        not taken.exists() or (taken / "args.yaml").is_file() or (taken.is_dir() and not any(taken.iterdir()))
    )
    if exist_ok and not ours:
        raise DataError(
            f"{taken}: no run of ours (no args.yaml in it), so it is not replaced; give another name="
        )
    parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=parent))
    fresh.chmod(0o755)
    (fresh / "args.yaml").write_text(
        yaml.safe_dump(args, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    if exist_ok and (parent / name).exists():
        shutil.rmtree(parent / name)
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        number += 1
        if folder.exists():
            continue
        try:
            os.rename(fresh, folder)
        except OSError:
            if folder.exists():  # another run took the name in this very moment
                continue
            raise
        return folder


def read_args(folder: Path) -> dict[str, Any]:
    """The options that a run was started with. DataError where the folder is not a run's."""
    path = folder / "args.yaml"
    if not path.is_file():
        raise DataError(
            f"{folder}: not a run's folder (no args.yaml in it); resume=RUN takes runs/<task>/<name>"
        )
    try:
        args = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as YAML ({error}); start a new run with model=") from None
    if not isinstance(args, dict) or not isinstance(args.get("task"), str):
        raise DataError(f"{path}: does not say which task was trained; start a new run with model=")
    return args


def write_text(path: Path, text: str) -> None:
    """Replace a text file, whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_results(folder: Path, history: list[dict[str, float]]) -> None:
    """`results.csv`: a row an epoch; a value that an epoch lacks is left empty."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: format_number(value) for key, value in row.items()} for row in history)
    write_text(folder / "results.csv", text.getvalue())


def format_number(value: float) -> str:
    """Integers plainly, floats with six significant digits."""
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def plot_results(folder: Path, history: list[dict[str, float]], metrics: Sequence[str]) -> None:
    """`results.png`: losses, the metrics, the headline first, and the learning rates over epochs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    keys = list(dict.fromkeys(key for row in history for key in row))
    panels = {
        "loss": [k for k in keys if k.startswith("train/") or k.endswith("loss")],
        metrics[0]: [k for k in metrics if k in keys and not k.endswith("loss")],
        "learning rate": [k for k in keys if k.startswith("lr/")],
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 3.4), layout="constrained")
    for axis, (title, names) in zip(axes, panels.items()):
        for name in names:
            points = [(row["epoch"], row[name]) for row in history if name in row]
            label = name if "/" in name else f"val {name}"
            axis.plot(*zip(*points), label=label, marker="o" if len(points) < 30 else None, markersize=3)
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend(fontsize=8, frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    plt.close(figure)
    write_atomically(folder / "results.png", lambda file: file.write(data.getvalue()))


def environment() -> str:
    """Versions and hardware, for `env.txt`: what one needs to know to repeat a run."""
    import torch

    packages = ("retinue", "torch", "torchvision", "numpy", "opencv-python", "albumentations", "accelerate")
    lines = [f"python {platform.python_version()} on {platform.platform()}"]
    for package in packages:
        try:
            lines.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{package} not installed")
    lines.append(
        f"cpu {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    )
    lines += [f"gpu {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    lines += [
        f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "WORLD_SIZE") if name in os.environ
    ]
    lines.append("command " + " ".join(sys.argv))
    return "\n".join(lines) + "\n"


def write_json(destination: str | None, value: Any) -> None:
    """What `json=FILE` asks for: figures for programs; `-` is standard output."""
    if destination is None:
        return
    text = json_text(value) + "\n"
    if destination == "-":
        sys.stdout.write(text)
    else:
        Path(destination).parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(destination), text)


def json_text(value: Any) -> str:
    """Indented JSON in which a list of numbers, as of a box, takes one line; numbers that are not finite are null."""
    text = json.dumps(finite(value), indent=2, ensure_ascii=False)
    return NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)


def finite(value: Any) -> Any:
    """Plain values with NaN and infinities as None, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
