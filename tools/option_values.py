"""The value of an option: from a command line's text to its type, in its range, or an error with what was meant."""

import collections.abc
import difflib
import math
import os
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal


class UsageError(ValueError):
    """A wrong key or value: the message says what is wrong and what was probably meant (exit status 2)."""


def closest(word: str, words: typing.Iterable[str]) -> str:
    """A "did you mean" clause, or the empty string."""
    near = difflib.get_close_matches(word, list(words), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def convert(name: str, text: Any, annotation: Any) -> Any:
    """A command line's text as the option's type; UsageError if it is none.

    Plain scalars, Literal, `X | None`, and lists or tuples separated by commas.
    """
    if not isinstance(text, str):
        return text
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and text.lower() in ("none", ""):
            return None
        return _first_that_fits(name, text, [a for a in arguments if a is not type(None)])
    if origin is Literal:
        if text not in arguments:
            near = closest(text, map(str, arguments))
            raise UsageError(f"{name}={text}: choose one of {', '.join(map(str, arguments))}{near}")
        return text
    if origin in (list, tuple, collections.abc.Sequence):
        inner = arguments[0] if arguments else str
        return (tuple if origin is tuple else list)(
            convert(name, part.strip(), inner) for part in text.strip("()[]").split(",")
        )
    if annotation is bool:
        if text.lower() in ("true", "yes", "1", "on"):
            return True
        if text.lower() in ("false", "no", "0", "off"):
            return False
        raise UsageError(f"{name}={text}: say true or false")
    if annotation in (int, float):
        try:
            return annotation(text)
        except ValueError:
            kind = "a whole number" if annotation is int else "a number"
            raise UsageError(f"{name}={text}: {name} is {kind}") from None
    return text


def _first_that_fits(name: str, text: str, annotations: list[Any]) -> Any:
    errors = []
    for annotation in annotations:
        try:
            return convert(name, text, annotation)
        except UsageError as error:
            errors.append(error)
    raise errors[-1]


def check_range(name: str, value: Any, limits: Mapping[str, Any]) -> None:
    """UsageError for a number outside the option's range, NaN and infinities included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    least, most = limits.get("least"), limits.get("most")
    if not math.isfinite(value) or (least is not None and value < least):
        raise UsageError(f"{name}={value}: {name} is {'a number' if least is None else f'at least {least}'}")
    if most is not None and value > most:
        raise UsageError(f"{name}={value}: {name} is at most {most}")


def check_file(name: str, path: str) -> None:
    """UsageError where a file cannot be written, before the work rather than after it."""
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if os.path.isdir(path) or not path or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UsageError(f"{name}={path}: cannot be written; give the name of a file in a folder of yours")
