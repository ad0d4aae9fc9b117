"""README states what was measured: its table and its figure are those of the committed reference runs."""

from __future__ import annotations

import re
from pathlib import Path

from wslab.lab.runs import Run
from wslab.view.publish import results_table


def test_the_results_table_is_that_of_the_reference_runs(project_root: Path) -> None:
    readme = (project_root / "README.md").read_text(encoding="utf-8")
    runs = [Run.load(path.parent) for path in sorted((project_root / "data/reference").glob("*/run.json"))]
    assert {run.name for run in runs if run.outcome == "held"} >= {"10k", "100k", "700k", "1M"}
    assert results_table(runs) in readme


def test_every_file_that_readme_points_to_is_there(project_root: Path) -> None:
    readme = (project_root / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)", readme)
    assert [target for target in targets if "://" not in target and not (project_root / target).exists()] == []
    assert any(target.endswith(".svg") for target in targets)


def test_every_make_target_and_command_that_readme_names_exists(project_root: Path) -> None:
    from wslab.cli_arguments import build_parser

    readme = (project_root / "README.md").read_text(encoding="utf-8")
    makefile = (project_root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z]+)", readme))
    assert {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()
    commands = set(re.findall(r"`wslab ([a-z]+)", readme))
    assert {name for name in commands if name not in build_parser().format_help()} == set()
