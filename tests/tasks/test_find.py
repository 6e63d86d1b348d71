"""Tasks by module path: what counts as one, and what is said where a path cannot name one."""

import sys
from types import ModuleType

import pytest

from retinue.datasets.targets import DataError
from retinue.tasks import find
from retinue.tasks.task import Task

PATH = "classification.for_this_test"


def module_with(
    monkeypatch: pytest.MonkeyPatch, *names: str, bases: tuple[type, ...] = (Task,)
) -> ModuleType:
    module = ModuleType(f"retinue.tasks.{PATH}")
    for name in names:
        setattr(module, name, type(name, bases, {"__module__": module.__name__}))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(find, "modules", lambda: [PATH])
    return module


def test_bases_and_what_is_imported_are_no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_with(monkeypatch, "_Base", "Detector")
    module.Task = Task  # type: ignore[attr-defined]
    module.number = 3  # type: ignore[attr-defined]
    assert find.task_in(PATH) is module.Detector
    assert find.find("for_this_test") is module.Detector


@pytest.mark.parametrize("names", [(), ("_Base",)])
def test_a_module_without_a_public_task_holds_none(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    module_with(monkeypatch, *names)
    assert find.task_in(PATH) is None and find.names() == []


def test_several_public_tasks_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    module_with(monkeypatch, "FCN32s", "FCN16s", "_FCN")
    with pytest.raises(DataError, match=r"for_this_test defines several tasks, FCN32s, FCN16s, .*a setting"):
        find.find("for_this_test")
