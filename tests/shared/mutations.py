"""Hostile files: random mutations of a sound one, and the promise that every reader must keep on all of them."""

import os
import random
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from retinue.datasets.targets import DataError

MUTANTS = pytest.mark.parametrize(
    "count", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
"""For a test of `count` mutants of a format: some by default, many with -m slow."""

TOKEN = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[A-Za-z_][\w.]*|\"[^\"\n]{0,80}\"")

HOSTILE = [
    b"0", b"-1", b"1e308", b"-1e308", b"1e999", b"NaN", b"Infinity", b"nan", b"inf", b"99999999999999999999999",
    b"2147483648", b"9223372036854775808", b"-0.0", b"1e-320", b"0x10", b"1_000", b"true", b"null", b"\"\"", b"[]",
    b"{}", b"[[]]", b"[" * 3000, b"{\"a\":" * 500, b"\"../../../../../../etc/passwd\"", b"../../../../../etc/passwd",
    b"/etc/passwd", b"/dev/zero", b"\"/dev/zero\"", b"C:\\\\x", b"\\ud800", b"\"\\u0000\"", b"\x00", b"\xff\xfe",
    b"\xf0\x9f\x90\x9d", b"<", b">", b"&lol;", b"&#0;", b"]]>", b"<!--", b"!!python/object:os.system", b"*a", b"&a",
    b"\n", b"\r", b"\t", b",", b":", b" ", b"%s", b"-", b"9" * 5000, b"A" * 5000,
]  # fmt: skip
"""What is put in the place of a word, a number or nothing."""


def mutants(sound: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` damaged copies of a file, a function of the seed: one to three changes each."""
    for number in range(count):
        luck = random.Random(f"{seed}/{number}")
        data = sound
        for _ in range(luck.choice((1, 1, 1, 2, 3))):
            data = luck.choice(CHANGES)(data, luck)
        yield data


def _token(data: bytes, luck: random.Random) -> bytes:
    """Another value in the place of a word or a number; the change that gets furthest into a reader."""
    places = list(TOKEN.finditer(data))
    if not places:
        return data + luck.choice(HOSTILE)
    place = luck.choice(places)
    other = luck.choice(places)[0] if luck.random() < 0.3 else luck.choice(HOSTILE)
    return data[: place.start()] + other + data[place.end() :]


def _span(data: bytes, luck: random.Random) -> tuple[int, int]:
    start = luck.randrange(len(data) + 1)
    return start, min(len(data), start + luck.choice((1, 2, 8, 40, 300)))


def _cut(data: bytes, luck: random.Random) -> bytes:
    start, stop = _span(data, luck)
    return data[:start] + data[stop:]


def _repeat(data: bytes, luck: random.Random) -> bytes:
    start, stop = _span(data, luck)
    return data[:stop] + data[start:stop] * luck.choice((1, 1, 50)) + data[stop:]


def _insert(data: bytes, luck: random.Random) -> bytes:
    start, _ = _span(data, luck)
    return data[:start] + luck.choice(HOSTILE) + data[start:]


def _flip(data: bytes, luck: random.Random) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[luck.randrange(len(data))] ^= 1 << luck.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, luck: random.Random) -> bytes:
    return data[: luck.randrange(len(data) + 1)]


CHANGES = (_token, _token, _token, _token, _cut, _repeat, _insert, _flip, _truncate)

_opened: list[str] | None = None


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str | bytes):
        _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_listen)


def survives(
    file: Path, root: Path, use: Callable[[], object], count: int, seconds: float = 1.0, seed: int = 0
) -> Counter[str]:
    """Replace `file` by mutants of itself, one after the other, and `use` the data set that it belongs to.

    Asserts that each is used or refused with a DataError, within some seconds of computing, and that
    nothing is read outside of `root`. Returns how many were "used" and how many "refused". The file is restored.
    """
    global _opened
    sound, outcomes = file.read_bytes(), Counter[str]()
    home = os.path.realpath(root) + os.sep
    ours = (
        home,
        os.path.realpath(sys.prefix),
        os.path.realpath(sys.base_prefix),
        str(Path(__file__).parents[2]),
    )
    try:
        for number, data in enumerate(mutants(sound, count, seed)):
            file.write_bytes(data)
            _opened, start = [], time.process_time()
            try:
                use()
                outcomes["used"] += 1
            except DataError as error:
                outcomes["refused" if str(error) else "refused without a word"] += 1
            except Exception as error:
                where = "".join(traceback.format_exception(error)[-3:])
                raise AssertionError(f"mutant {number}: {where}\n{data[:2000]!r}") from error
            took = time.process_time() - start
            opened, _opened = _opened, None
            assert took < seconds, f"mutant {number} took {took:.2f} s: {data[:2000]!r}"
            outside = [path for path in opened if not os.path.realpath(path).startswith(ours)]
            assert not outside, f"mutant {number} had {outside} read: {data[:2000]!r}"
    finally:
        _opened = None
        file.write_bytes(sound)
    return outcomes
