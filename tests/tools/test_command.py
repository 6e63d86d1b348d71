"""The command line: words to settings, errors to exit statuses, and what is not imported."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.tools import command
from retinue.tools.options import COMMANDS, UsageError, convert, help_text, make


@pytest.mark.parametrize("words", [["epochs=3"], ["--epochs", "3"], ["--epochs=3"]])
def test_every_way_to_say_an_option(words: list[str]) -> None:
    settings = command.parse(["classification", *words, "exist-ok=yes", "--frozen-norm"], "train")
    options, _ = make("train", settings)
    assert (options.task, options.epochs, options.exist_ok, options.frozen_norm) == (
        "classification",
        3,
        True,
        True,
    )


def test_predict_takes_many_sources() -> None:
    settings = command.parse(["runs/a", "photo.jpg", "folder/", "conf=0.5"], "predict")
    assert settings == {"model": "runs/a", "source": ["photo.jpg", "folder/"], "conf": "0.5"}


def test_a_file_with_an_equals_sign_is_a_file(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    with open("a=b.jpg", "w"):
        pass
    assert command.parse(["runs/a", "a=b.jpg"], "predict")["source"] == ["a=b.jpg"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "did you mean train"),
        (["train", "classification", "epocs=3"], "did you mean epochs"),
        (["train", "classification", "epochs=three"], "epochs is a whole number"),
        (["train", "classification", "optimizer=adam"], "did you mean adamw"),
        (["train"], "retinue train classification"),
        (["train", "clasification"], "did you mean classification"),
        (["train", "classification", "backbone=resnet5"], "resnet50"),
        (["train", "classification", "label_smothing=0.1"], "label_smoothing"),
        (["train", "classification", "data=nowhere"], "nowhere"),
        (["train", "classification", "device=cuda:99"], "device"),
        (["train", "classification", "imgsz=2", "backbone=alexnet", "data=scenes:8"], "imgsz=2"),
        (["train", "resume=nowhere"], "nowhere"),
        (["predict", "nothing_known", "x.jpg"], "nothing_known"),
        (["predict"], "with what"),
        (["eval", "nothing_known"], "nothing_known"),
        (["list", "backbone"], "did you mean backbones"),
        (["check"], "check what"),
        (["check", "nowhere"], "nowhere"),
        (["train", "classification", "stray"], "stray"),
    ],
)
def test_bad_usage_is_named_with_a_remedy(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(words) == 2
    assert said in capsys.readouterr().err


def test_a_fault_of_our_own_shows_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("inner")

    monkeypatch.setattr(command, "parse", broken)
    assert command.main(["list"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown and "fault of retinue" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.strip() == help_text(name).strip()
    assert all(f"  {option} " in shown for option in COMMANDS[name].__dataclass_fields__)


def imported_by(code: str) -> set[str]:
    """Top-level modules in sys.modules after running code in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")[-2].split())


def test_help_imports_nothing_slow() -> None:
    loaded = imported_by(
        "from retinue.tools.command import main\nmain(['--help'])\nmain(['train', '--help'])"
    )
    assert not loaded & {"torch", "torchvision", "numpy", "cv2", "rich", "yaml", "accelerate"}


def test_predict_imports_neither_accelerate_nor_albumentations() -> None:
    code = "from retinue.tools.predict import predict\nimport retinue.tools.evaluate, retinue.tools.check"
    assert not imported_by(code) & {
        "accelerate",
        "albumentations",
        "sklearn",
        "matplotlib",
        "torchmetrics",
        "timm",
    }


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=4))
def test_lists_of_numbers_convert(values: list[float]) -> None:
    text = ",".join(map(repr, values))
    assert convert("x", text, list[float]) == values
    assert convert("x", f"({text})", tuple[float, ...]) == tuple(values)


def test_optional_and_union_convert() -> None:
    assert convert("x", "none", int | None) is None
    assert convert("x", "3", int | None) == 3
    assert convert("x", "balanced", str | None) == "balanced"
    with pytest.raises(UsageError, match="x=maybe"):
        convert("x", "maybe", bool)
