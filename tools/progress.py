"""Long work shows how far it is: a bar with rate and time left on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO, TypeVar

T = TypeVar("T")

PLAIN_SECONDS = 15.0
"""Without a terminal, at most one line this often."""


class Step(Protocol):
    """Moves the progress on by `count` things; `note` stands behind the rate."""

    def __call__(self, count: int, note: str = "") -> None:
        """So many things more are done."""
        ...


class Log:
    """Says things: to a stream and, once there is a run's folder, to its `train.log`.

    Only the main process of several says anything. `stream` is standard error where standard output is for json.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self.stream, self.quiet = stream or sys.stdout, quiet
        self.file: TextIO | None = None
        self.early: list[str] = []

    def open(self, path: Path) -> None:
        """From now on write to this file too, beginning with what was said before."""
        if not self.quiet:
            self.file = path.open("a", encoding="utf-8")
            self.file.writelines(line + "\n" for line in self.early)
            self.file.flush()

    def __call__(self, line: str) -> None:
        """Say a line."""
        if self.quiet:
            return
        print(line, file=self.stream, flush=True)
        if self.file is None:
            self.early.append(line)
        else:
            self.file.write(line + "\n")
            self.file.flush()

    def close(self) -> None:
        """Close the file, if there is one."""
        if self.file:
            self.file.close()
            self.file = None


def track(work: Iterable[T], what: str, log: Log, total: int | None = None) -> Iterator[T]:
    """The things of `work` one by one, while showing the progress."""
    total = total if total is not None or not isinstance(work, Sized) else len(work)
    if log.quiet:
        yield from work
        return
    with counting(what, log, total or 0) as step:
        for item in work:
            yield item
            step(1)


@contextmanager
def counting(what: str, log: Log, total: int) -> Iterator[Step]:
    """A function to call with the number of things done since the last call."""
    if log.quiet or not log.stream.isatty():
        yield Plain(what, log, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    rate = TextColumn("{task.fields[rate]}")
    with Progress(
        *columns, rate, TimeRemainingColumn(), console=Console(file=log.stream), transient=True
    ) as bar:
        task = bar.add_task(what, total=total or None, rate="")
        start, done = time.monotonic(), 0

        def step(count: int, note: str = "") -> None:
            nonlocal done
            done += count
            speed = done / max(1e-9, time.monotonic() - start)
            bar.update(task, advance=count, rate=f"{speed:.1f}/s {note}")

        yield step


def up_to(step: Step) -> Callable[[int, int], None]:
    """The same progress for those who tell how many are done, of how many, rather than how many more."""
    before = 0

    def tell(done: int, _: int) -> None:
        nonlocal before
        step(done - before)
        before = done

    return tell


class Plain:
    """Progress as plain lines, rarely."""

    def __init__(self, what: str, log: Log, total: int) -> None:
        self.what, self.log, self.total = what, log, total
        self.start = self.last = time.monotonic()
        self.done = 0

    def __call__(self, count: int, note: str = "") -> None:
        """So many things more are done."""
        self.done += count
        now = time.monotonic()
        if not self.log.quiet and now - self.last >= PLAIN_SECONDS:
            self.last = now
            speed = self.done / (now - self.start)
            left = f", {(self.total - self.done) / speed:.0f} s left" if self.total and speed else ""
            of = f"/{self.total}" if self.total else ""
            self.log(f"  {self.what}: {self.done}{of}, {speed:.1f}/s{left} {note}".rstrip())
