"""The house itself: imports run one way, nothing is hidden, and the wheel holds what the tree holds."""

import ast
import graphlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("backbones", "datasets", "tasks", "tools")
MODULES = {
    "retinue." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}
LEAVES = {"rle", "targets", "transforms"}
"""The modules of datasets that tasks may import; what these import themselves counts as theirs."""
SLOW = {
    "albumentations", "importlib.metadata", "matplotlib", "matplotlib.figure", "onnxruntime", "rich.console",
    "rich.progress",
    "safetensors", "scipy", "skimage.segmentation", "sklearn.linear_model", "sklearn.model_selection",
    "sklearn.pipeline", "sklearn.preprocessing", "sklearn.svm", "supervision", "tifffile", "timm", "timm.data", "torch",
    "torch.utils.tensorboard", "torchvision.models", "PIL",
}  # fmt: skip
"""What may be imported inside a function: slow, or not always installed, and needed by few."""


def imports(path: Path, inside_functions: bool) -> set[str]:
    """Names of imported modules; those of a package's own modules when it imports names from the package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    hidden = {id(node) for function in functions for node in ast.walk(function)}
    found = set()
    for node in ast.walk(tree):
        if (id(node) in hidden) != inside_functions:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inner or {module}
    return found


GRAPH = {name: imports(path, False) & MODULES.keys() for name, path in MODULES.items()}


def leaf_modules() -> set[str]:
    """The leaves and all that they stand on."""
    leaves = {f"retinue.datasets.{name}" for name in LEAVES}
    while more := {inner for leaf in leaves for inner in GRAPH.get(leaf, set())} - leaves:
        leaves |= more
    return leaves


def test_imports_run_one_way() -> None:
    allowed = {
        "backbones": {"backbones"},
        "datasets": {"datasets"},
        "tasks": {"tasks", "backbones"},
        "tools": set(FOLDERS),
    }
    leaves = leaf_modules()
    assert all(leaf.startswith("retinue.datasets.") for leaf in leaves)
    wrong = [
        f"{name} imports {target}"
        for name, targets in GRAPH.items()
        for target in targets
        if target.split(".")[1] not in allowed[name.split(".")[1]]
        and not (name.split(".")[1] == "tasks" and target in leaves)
    ]
    assert not wrong


def test_there_is_no_import_cycle() -> None:
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    order = tuple(graphlib.TopologicalSorter({k: v - packages for k, v in GRAPH.items()}).static_order())
    assert len(order) >= len(MODULES) - len(packages)


def test_no_import_is_hidden_in_a_function_but_the_declared_slow_ones() -> None:
    hidden = {(name, module) for name, path in MODULES.items() for module in imports(path, True)}
    assert {(name, module) for name, module in hidden if module not in SLOW} == set()


def test_no_package_or_conftest_at_the_root() -> None:
    assert not (ROOT / "__init__.py").exists() and not (ROOT / "conftest.py").exists()


def test_setup_names_every_package() -> None:
    text = (ROOT / "setup.cfg").read_text()
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    folders = {"retinue." + ".".join(path.parent.relative_to(ROOT).parts) for path in MODULES.values()}
    assert packages <= folders
    assert [folder for folder in folders if f"    {folder}\n" not in text] == []


def test_wheel_holds_the_tree(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {n for n in archive.namelist() if n.startswith("retinue/")}
        expected = {f"retinue/{path.relative_to(ROOT)}" for path in MODULES.values()}
        assert {n for n in packed if n.endswith(".py")} == expected
        assert {f"retinue/{folder}/py.typed" for folder in FOLDERS} <= packed
        assert all(archive.read(f"retinue/{p.relative_to(ROOT)}") == p.read_bytes() for p in MODULES.values())
        assert any(n.endswith("LICENSE") for n in archive.namelist())
