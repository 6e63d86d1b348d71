"""The `retinue` command: words in, one tool called, an exit status out. Imports nothing slow by itself."""

import dataclasses
import importlib
import os
import sys
import traceback
from typing import Any

from retinue.tools.options import COMMANDS, UsageError, closest, help_text, make

USAGE = """retinue: one backbone, every vision task

  retinue train TASK data=DIR backbone=NAME weights=imagenet   learn, from a folder to a saved model
  retinue eval RUN data=DIR                                    the numbers, recomputed from pixels
  retinue eval predictions=results.json data=DIR               those of anybody's COCO results file
  retinue predict RUN photo.jpg folder/                        results drawn, and as json
  retinue propose selective_search data=DIR out=FILE           region proposals, for fast_rcnn
  retinue check data=DIR                                       what is wrong with a data set
  retinue convert DIR to=coco out=NEW                          detection data in another format
  retinue list [backbones|models|tasks|datasets]               what there is
  retinue bench                                                the speed figures of the README

Options are KEY=VALUE or --KEY VALUE; `retinue COMMAND --help` lists them.
Start here, without any data: retinue train classification
"""

MODULES = {"eval": "evaluate", "bench": "benchmark"}
POSITIONAL = {
    "train": "task",
    "eval": "model",
    "predict": "model",
    "propose": "model",
    "check": "data",
    "convert": "data",
    "list": "what",
    "bench": "what",
}
WITH_SOURCES = {"predict", "propose"}
NEEDS_SUBJECT = {
    "train": "train what? e.g. `retinue train classification`; `retinue list tasks` names all",
    "eval": "evaluate what? e.g. `retinue eval runs/classification/resnet18 data=photos`",
    "predict": "predict with what, on what? e.g. `retinue predict runs/classification/resnet18 photo.jpg`",
    "propose": "propose with what? e.g. `retinue propose selective_search data=DIR out=FILE`",
    "check": "check what? e.g. `retinue check photos/`",
    "convert": "convert what? e.g. `retinue convert data/ to=coco out=data_coco`",
}


def parse(words: list[str], command: str) -> dict[str, Any]:
    """`KEY=VALUE`, `--KEY VALUE`, `--KEY=VALUE`, `--FLAG`; the first bare word is the command's subject.

    Further bare words are the sources of `predict` and `propose`, and an error elsewhere.
    """
    settings: dict[str, Any] = {}
    sources: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            if not equals:
                value = (
                    words.pop(0)
                    if words and not words[0].startswith("--") and "=" not in words[0]
                    else "true"
                )
            settings[key.replace("-", "_")] = value
        elif "=" in word and not os.path.exists(word):
            key, _, value = word.partition("=")
            settings[key.replace("-", "_")] = value
        elif POSITIONAL[command] not in settings:
            settings[POSITIONAL[command]] = word
        elif command in WITH_SOURCES:
            sources.append(word)
        else:
            meant = f"; did you mean data={word}?" if os.path.exists(word) else ""
            raise UsageError(f"what is {word!r}? Options of {command} are KEY=VALUE{meant}")
    if command in WITH_SOURCES:
        given = settings.get("source")
        settings["source"] = ([given] if given else []) + sources
    return settings


def main(words: list[str] | None = None) -> int:
    """Run one command. Returns 0, 1 (failed) or 2 (bad usage or bad data)."""
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if words[0] in ("-V", "--version", "version"):
        from importlib.metadata import version

        print(f"retinue {version('retinue')}")
        return 0
    command, *rest = words
    try:
        if command not in COMMANDS:
            raise UsageError(
                f"no command {command!r}{closest(command, COMMANDS) or '; see `retinue --help`'}"
            )
        if "-h" in rest or "--help" in rest:
            print(help_text(command) + task_help(command, rest))
            return 0
        settings = parse(rest, command)
        check_early(command, settings)
        tool = importlib.import_module(f"retinue.tools.{MODULES.get(command, command)}")
        return int(tool.run(settings) or 0)
    except KeyboardInterrupt:
        print("retinue: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return report(error)


def check_early(command: str, settings: dict[str, Any]) -> None:
    """Find what is wrong with the options before anything slow is imported; a task's own are left for later."""
    given = any(settings.get(name) for name in (POSITIONAL[command], "resume", "predictions"))
    if not given and command in NEEDS_SUBJECT:
        raise UsageError(NEEDS_SUBJECT[command])
    own = {option.name for option in dataclasses.fields(COMMANDS[command])}
    known = {k: v for k, v in settings.items() if k.replace("-", "_") in own}
    make(command, known if command in ("train", "eval", "predict") else settings)


def task_help(command: str, words: list[str]) -> str:
    """The own settings of the task that stands among the words, where help on training it is asked for."""
    task = next((word for word in words if not word.startswith("-") and "=" not in word), None)
    if command != "train" or task is None:
        return ""
    find = importlib.import_module("retinue.tasks.find")
    lines = [f"  {name:<15} {kind}" for name, kind in find.settings_help(task).items()]
    return "\n".join([f"\n\nSettings of {task}: {find.find(task).__doc__}", *lines])


def report(error: Exception) -> int:
    """Say what went wrong.

    Errors of our own classes under ValueError are bad usage or bad data (2), those under RuntimeError are runs
    that could not go on (1); a plain one of either is a fault of this program and shows its traceback.
    """
    if os.environ.get("RETINUE_TRACEBACK"):
        traceback.print_exception(error)
    if isinstance(error, ValueError) and type(error).__module__.startswith("retinue."):
        print(f"retinue: {error}", file=sys.stderr)
        return 2
    if isinstance(error, RuntimeError) and type(error).__module__.startswith("retinue."):
        print(f"retinue: {error}", file=sys.stderr)
        return 1
    if isinstance(error, OSError):
        print(f"retinue: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 1
    traceback.print_exception(error)
    print(
        f"retinue: this is a fault of retinue's, not yours: {type(error).__name__}: {error}", file=sys.stderr
    )
    return 1
