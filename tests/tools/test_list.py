"""Lists: everything that there is, for people and for programs."""

import json
from typing import Any

import pytest

import retinue.backbones
from retinue.datasets.formats import format_modules
from retinue.tasks import find
from retinue.tools import command
from retinue.tools import list as listing


def listed(capsys: Any, *words: str) -> tuple[dict[str, Any], str]:
    assert command.main(["list", *words, "json=-"]) == 0
    shown = capsys.readouterr()
    return json.loads(shown.out), shown.err


def test_everything_is_listed(capsys: Any) -> None:
    found, shown = listed(capsys)
    assert {row["backbone"] for row in found["backbones"]} == set(retinue.backbones.names())
    assert {row["format"] for row in found["datasets"]} == set(format_modules())
    for row in found["tasks"]:
        assert find.find(row["task"]).headline == row["metric"] and row["what"] and row["needs"]
        assert row["task"] in shown
    assert all(name in shown for name in retinue.backbones.names())


def test_one_kind_only(capsys: Any) -> None:
    for kind in ("backbones", "models", "tasks", "datasets"):
        assert list(listed(capsys, kind)[0]) == [kind]


def test_published_weights_have_score_licence_and_address(capsys: Any) -> None:
    rows = [row for row in listed(capsys, "backbones")[0]["backbones"] if row["weights"]]
    by_name = {(row["backbone"], row["weights"]): row for row in rows}
    assert by_name["resnet50", "IMAGENET1K_V1"]["top1"] == pytest.approx(76.13)
    assert by_name["resnet50", "IMAGENET1K_V1"]["parameters"] == 25_557_032
    assert (
        not by_name["resnet50", "IMAGENET1K_V1"]["default"]
        and by_name["resnet50", "IMAGENET1K_V2"]["default"]
    )
    assert all(row["url"].startswith("https://") and row["licence"] for row in rows)
    assert sum(row["default"] for row in rows) == len({row["backbone"] for row in rows})


def test_published_models_have_score_licence_and_address(capsys: Any) -> None:
    rows = {row["model"]: row for row in listed(capsys, "models")[0]["models"]}
    assert rows.keys() == find.published().keys() - set(retinue.backbones.names())
    assert all(0 < row["score"] < 1 and row["licence"] and row["metric"] for row in rows.values())
    assert all(row["source"].startswith("https://") for row in rows.values())


def test_licences_are_shown(capsys: Any) -> None:
    assert command.main(["list", "backbones", "--licence"]) == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if line.startswith("resnet50 "))
    assert "BSD-3-Clause" in row
    assert "ImageNet, whose terms allow research only" in " ".join(shown.split())


def test_listing_asks_no_network(capsys: Any, no_network: list[str]) -> None:
    assert command.main(["list"]) == 0 and no_network == []


def test_nothing_of_that_kind(capsys: Any) -> None:
    assert command.main(["list", "backbnes"]) == 2
    assert "did you mean backbones" in capsys.readouterr().err


def test_cells() -> None:
    assert [listing.text(value) for value in (None, 71.878, 3504872, ["a", "b"], "one; two", 7)] == [
        "-", "71.88", "3.5 M", "a, b", "one", "7"
    ]  # fmt: skip
