"""The options of a new run, or those of the run that is resumed."""

from pathlib import Path
from typing import Any

import yaml

from retinue.tasks.find import find, settings_of
from retinue.tools import run_folder
from retinue.tools.options import Train, UsageError, make

RESUME_MAY_CHANGE = {"device", "workers", "json", "save_minutes", "resume"}
"""What may differ when a run goes on: where it is computed, not what."""


def resolve_options(settings: dict[str, Any]) -> tuple[Train, dict[str, Any]]:
    """Options (the task's recipe where nothing else is asked for) and its settings; `resume`'s run has its own."""
    if not settings.get("resume"):
        if not settings.get("task"):
            raise UsageError(
                "train what? e.g. `retinue train classification`; `retinue list tasks` names all"
            )
        pretrained = any(str(settings.get(key) or "none").lower() != "none" for key in ("weights", "model"))
        recipe = find(settings["task"]).recipe(pretrained)
        options, task_settings = make("train", recipe | settings, settings_of(settings["task"]))
        if options.shots and options.method == "descend":
            raise UsageError(f"shots={options.shots} belongs to method=linear or method=svm")
        if options.tune == "none" and options.method == "descend":
            raise UsageError("tune=none: nothing would descend; it belongs to method=linear or method=svm")
        return options, task_settings
    folder = Path(settings["resume"])
    kept = run_folder.read_args(folder)
    options, task_settings = make("train", kept, settings_of(kept["task"]))
    asked, asked_task = make("train", settings, settings_of(kept["task"]))
    for key, value in {
        **{k: getattr(asked, k.replace("-", "_"), None) for k in settings},
        **asked_task,
    }.items():
        key = key.replace("-", "_")
        before = task_settings.get(key) if key in asked_task else getattr(options, key)
        if key in RESUME_MAY_CHANGE:
            setattr(options, key, value)
        elif plain(value) != plain(before):
            raise UsageError(
                f"resume continues exactly: {key} is {before}, not {value}; to start a new run from its weights, "
                f"use model={folder}/weights/last.safetensors"
            )
    options.resume = str(folder)
    return options, task_settings


def plain(value: Any) -> Any:
    """As it would be read back from yaml: tuples are lists."""
    return yaml.safe_load(yaml.safe_dump(list(value) if isinstance(value, tuple) else value))
