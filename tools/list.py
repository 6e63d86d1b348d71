"""List what there is: backbones with their published weights, published models, tasks, data formats."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

import retinue.backbones
from retinue.backbones.weights import published
from retinue.datasets.formats import format_modules
from retinue.tasks import find
from retinue.tools.options import UsageError, closest, make
from retinue.tools.run_folder import write_json

BRIEF = ["backbone", "weights", "top1", "parameters"]


def backbones() -> list[dict[str, Any]]:
    """A row for every set of published weights, and one for every backbone without."""
    rows: list[dict[str, Any]] = []
    for name in retinue.backbones.names():
        weights = published(name)
        if not weights:
            rows.append(
                {"backbone": name, "weights": None, "top1": None, "parameters": None, "licence": None}
            )
        for position, w in enumerate(weights.values()):
            row = {"backbone": name, "weights": w.name, "top1": w.top1, "parameters": w.parameters}
            rows.append({**row, "default": position == 0, "licence": w.licence, "url": w.url})
    return rows


def models() -> list[dict[str, Any]]:
    """A row for every published model; classifiers are their backbones' rows."""
    others = {name: m for name, m in find.published().items() if name not in retinue.backbones.names()}
    return [{"model": name, **module.describe(name)} for name, module in others.items()]


def tasks() -> list[dict[str, Any]]:
    """Every task with the first line of its docstring, the targets it needs and its headline metric."""
    return [
        {
            "task": name,
            "what": (find.find(name).__doc__ or "").split("\n")[0],
            "needs": sorted(find.find(name).needs),
            "metric": find.find(name).headline,
        }
        for name in find.names()
    ]


def datasets() -> list[dict[str, Any]]:
    """Every data format with the first line of its module's docstring."""
    return [
        {"format": name, "what": (module.__doc__ or "").split("\n")[0]}
        for name, module in format_modules().items()
    ]


def show(title: str, rows: list[dict[str, Any]], columns: list[str], console: Console) -> None:
    """A table for people."""
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column not in ("what", "licence"))
    for row in rows:
        table.add_row(*(text(row.get(column)) for column in columns))
    console.print(table)
    console.print()


def text(value: Any) -> str:
    """A cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, int) and value > 9999:
        return f"{value / 1e6:.1f} M"
    if isinstance(value, float):
        return f"{value:.2f}" if value >= 1 else f"{value:.3f}"
    return ", ".join(value) if isinstance(value, list) else str(value).partition(";")[0]


def run(settings: dict[str, Any]) -> int:
    """The command."""
    options, _ = make("list", settings)
    kinds = {"backbones": backbones, "models": models, "tasks": tasks, "datasets": datasets}
    if options.what not in (*kinds, "all"):
        near = closest(options.what, kinds) or "; choose all, " + ", ".join(kinds)
        raise UsageError(f"list {options.what}: nothing of that kind{near}")
    stream = sys.stderr if options.json == "-" else sys.stdout
    console = Console(file=stream, width=None if stream.isatty() else 120)
    found = {name: rows() for name, rows in kinds.items() if options.what in (name, "all")}
    columns = {
        "backbones": ["backbone", "weights", "licence"] if options.licence else BRIEF,
        "models": ["model", "metric", "score", "parameters", "licence"],
        "tasks": ["task", "what", "needs", "metric"],
        "datasets": ["format", "what"],
    }
    for name, rows in found.items():
        show(name, rows, columns[name], console)
        for note in sorted({row["licence"] for row in rows if row.get("licence")}):
            console.print(f"licence of these weights: {note}\n")
    write_json(options.json, found)
    return 0
