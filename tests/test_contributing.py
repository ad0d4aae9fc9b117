"""What CONTRIBUTING points to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def text(project_root: Path) -> str:
    return (project_root / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_every_path_is_there(project_root: Path, text: str) -> None:
    # Names in capitals, and those of the worked example, stand for what a contributor adds.
    paths = set(re.findall(r"(?:wslab|tests|notebooks|data|\.ci)/[\w./-]+[\w/]", text)) - {
        "tests/data/broken-NAME",
        "tests/data/broken-some_max",
    }
    assert len(paths) > 15
    assert [path for path in sorted(paths) if not (project_root / path).exists()] == []


def test_every_room_of_the_picture_is_there_and_none_is_missing(project_root: Path, text: str) -> None:
    pictured = set(re.findall(r"^  (\w+)/ ", text, re.MULTILINE))
    rooms = {path.parent.name for path in (project_root / "wslab").glob("*/__init__.py")}
    assert pictured == rooms


@pytest.mark.parametrize(
    ("name", "module"),
    re.findall(
        r"`([A-Z_]{5,})` of\s+`(wslab/[\w/]+\.py)`", (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    ),
)
def test_every_table_stands_in_the_module_that_is_named(project_root: Path, name: str, module: str) -> None:
    assert re.search(rf"^{name}\b.* = ", (project_root / module).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_make_target_exists(project_root: Path, text: str) -> None:
    makefile = (project_root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z-]+)`?", text)) - {"sure"}
    assert {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()
