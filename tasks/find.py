"""Tasks by name: the module path is the name, or its last part where that is unique. Nothing is registered."""

import difflib
import importlib
import inspect
import pkgutil
import typing
from types import ModuleType
from typing import Any

import retinue.tasks
from retinue.datasets.targets import DataError
from retinue.tasks.task import Task


def modules() -> list[str]:
    """Dotted paths below `retinue.tasks` of all modules that may hold a task, without importing them."""
    found = []
    for package in pkgutil.iter_modules(retinue.tasks.__path__):
        if package.ispkg:
            folder = [f"{path}/{package.name}" for path in retinue.tasks.__path__]
            found += [f"{package.name}.{module.name}" for module in pkgutil.iter_modules(folder)]
    return sorted(found)


def task_in(module: str) -> type[Task] | None:
    """The public Task subclass that a module below `retinue.tasks` defines, or None; DataError if there are several."""
    loaded = importlib.import_module(f"retinue.tasks.{module}")
    own = [
        value
        for value in vars(loaded).values()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == loaded.__name__
        if not value.__name__.startswith("_") and not inspect.isabstract(value)
    ]
    if len(own) > 1:
        raise DataError(
            f"retinue.tasks.{module} defines several tasks, {', '.join(task.__name__ for task in own)}, but its path "
            "names one. Make them one task with a setting, give each a file, or begin the names of bases with '_'"
        )
    return own[0] if own else None


def names() -> list[str]:
    """Module paths of all tasks; imports them."""
    return [module for module in modules() if task_in(module)]


def find(name: str) -> type[Task]:
    """The task of that name; DataError, with what was probably meant, if there is none or more than one."""
    matching = [module for module in modules() if name in (module, module.rpartition(".")[2])]
    tasks = {module: task for module in matching if (task := task_in(module))}
    if len(tasks) > 1:
        raise DataError(f"{name!r} may be {' or '.join(tasks)}: give the longer name")
    if not tasks:
        known = names()
        words = known + [n.rpartition(".")[2] for n in known]
        near = difflib.get_close_matches(name, words, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise DataError(f"no task {name!r}; {hint}")
    return next(iter(tasks.values()))


def published() -> dict[str, ModuleType]:
    """Name of every published model -> the module of the task's package, `published...`, that knows it.

    Such a module has `names() -> list[str]`; `build(name, weights=None) -> (Model, facts)`, the model in evaluation
    mode with the named weights (default: its best published ones) and what its header says beside its construction,
    `imgsz` among it; and `describe(name) -> dict`: `score` in [0, 1] with its `metric`, `licence`, `source` and
    `parameters`, empty where nothing is published.
    """
    found: dict[str, ModuleType] = {}
    for path in modules():
        if path.rpartition(".")[2].startswith("published"):
            module = importlib.import_module(f"retinue.tasks.{path}")
            found |= dict.fromkeys(module.names(), module)
    return found


def name_of(task: type[Task]) -> str:
    """The module path that `find` takes back to this task."""
    return task.__module__.removeprefix("retinue.tasks.")


def settings_of(task: str) -> dict[str, Any]:
    """A task's own settings: the keyword-only parameters of its class -> their types."""
    kind = find(task)
    return {name: _hints(owner).get(name, str) for name, (owner, _) in _keyword_only(kind).items()}


def settings_help(task: str) -> dict[str, str]:
    """A task's own settings -> their defaults, as text."""
    return {name: f"[{parameter.default}]" for name, (_, parameter) in _keyword_only(find(task)).items()}


def _hints(kind: type[Task]) -> dict[str, Any]:
    return typing.get_type_hints(kind.__init__)


def _keyword_only(kind: type[Task]) -> dict[str, tuple[type[Task], inspect.Parameter]]:
    """Name -> (the class that says it, the parameter). A class that takes `**settings` has those of its base too."""
    found: dict[str, tuple[type[Task], inspect.Parameter]] = {}
    for owner in kind.__mro__:
        parameters = inspect.signature(owner.__init__).parameters.values()  # type: ignore[misc]
        found = {p.name: (owner, p) for p in parameters if p.kind is p.KEYWORD_ONLY} | found
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found
