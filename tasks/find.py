"""Tasks by name: the module path is the name, or its last part where that is unique. Nothing is registered."""

import difflib
import importlib
import pkgutil

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
    """The one Task subclass that a module below `retinue.tasks` defines, or None."""
    loaded = importlib.import_module(f"retinue.tasks.{module}")
    own = [
        value
        for value in vars(loaded).values()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == loaded.__name__
    ]
    return own[0] if len(own) == 1 else None


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


def name_of(task: type[Task]) -> str:
    """The module path that `find` takes back to this task."""
    return task.__module__.removeprefix("retinue.tasks.")
