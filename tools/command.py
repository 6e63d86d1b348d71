"""The `retinue` command: words in, one tool called, an exit status out. Imports nothing slow by itself."""

import importlib
import os
import sys
import traceback
from typing import Any

from retinue.tools.options import COMMANDS, UsageError, closest, help_text

USAGE = """retinue: one backbone, every vision task

  retinue train TASK data=DIR backbone=NAME weights=imagenet   learn, from a folder to a saved model
  retinue eval RUN data=DIR                                    the numbers, recomputed from pixels
  retinue predict RUN photo.jpg folder/                        results drawn, and as json
  retinue check data=DIR                                       what is wrong with a data set
  retinue list [backbones|tasks|datasets]                      what there is
  retinue bench                                                the speed figures of the README

Options are KEY=VALUE or --KEY VALUE; `retinue COMMAND --help` lists them.
Start here, without any data: retinue train classification
"""

MODULES = {"eval": "evaluate", "bench": "benchmark"}
POSITIONAL = {
    "train": "task",
    "eval": "model",
    "predict": "model",
    "check": "data",
    "list": "what",
    "bench": "what",
}


def parse(words: list[str], command: str) -> dict[str, Any]:
    """`KEY=VALUE`, `--KEY VALUE`, `--KEY=VALUE`, `--FLAG`; the first bare word is the command's subject.

    Further bare words are `predict`'s sources and an error elsewhere.
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
        elif command == "predict":
            sources.append(word)
        else:
            raise UsageError(f"what is {word!r}? Options of {command} are KEY=VALUE")
    if command == "predict":
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
            print(help_text(command))
            return 0
        settings = parse(rest, command)
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
