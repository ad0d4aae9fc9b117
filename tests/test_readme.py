"""README states what was measured, and names the commands that there are; CI calls its test command."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from statistics import median

import pytest

from wslab.breaks.confusion import Confusion, seeds_table
from wslab.breaks.scenario import draw
from wslab.core.quantities import format_count
from wslab.lab.runs import Run
from wslab.view.publish import results_table


def test_the_results_table_is_that_of_the_reference_runs(project_root: Path) -> None:
    readme = (project_root / "README.md").read_text(encoding="utf-8")
    runs = [Run.load(path.parent) for path in sorted((project_root / "data/reference").glob("*/run.json"))]
    assert {run.name for run in runs if run.outcome == "held"} >= {"10k", "100k", "700k", "1M"}
    assert results_table(runs) in readme


def test_the_comparison_with_the_interpreted_loops_is_that_of_the_recorded_pairs(project_root: Path) -> None:
    readme = " ".join((project_root / "README.md").read_text(encoding="utf-8").split())
    pairs = json.loads((project_root / "data/reference/before_after.json").read_text(encoding="utf-8"))
    assert all(one["outcome"] == "held" for pair in pairs for one in pair.values())
    shares = [pair["now"]["ramp_seconds"] / pair["before"]["ramp_seconds"] for pair in pairs]
    assert f"opened in {median(shares):.2f} of the time (median; {min(shares):.2f}–{max(shares):.2f};" in readme
    first = pairs[0]
    assert f"{first['now']['ramp_seconds']:.1f} s after {first['before']['ramp_seconds']:.1f} s in the first" in readme
    now, before = (
        [median(pair[when][f"{end}_cpu_seconds_per_connection"] for pair in pairs) * 1e6 for end in ("server", "swarm")]
        for when in ("now", "before")
    )
    assert f"cost {now[0]:.1f} + {now[1]:.1f} µs of CPU a connection" in readme
    assert f"where it was {before[0]:.1f} + {before[1]:.1f}:" in readme


def test_what_ended_other_servers_and_messages_is_that_of_the_recorded_stages(project_root: Path) -> None:
    lines = (project_root / "README.md").read_text(encoding="utf-8").splitlines()
    for one in json.loads((project_root / "data/reference/other_ends.json").read_text(encoding="utf-8")):
        (line,) = [line for line in lines if f"`{one['run_id']}`" in line]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:2] == [one["server"], format_count(one["connections"])]
        knee = one["knee"]
        spread = knee or one
        if knee:
            assert f"{knee['messages_per_second'] / 1e3:.1f}k messages/s at the knee" == cells[2]
            assert (
                cells[6] == f"{knee['limited_by']}: CPU pressure {knee['why'].split('CPU pressure ')[1].split(',')[0]}"
            )
        elif one["outcome"] == "held":
            assert f"held, {one['messages_per_second'] / 1e3:.1f}k messages/s" == cells[2]
        else:
            assert f"{one['connections_open']:,} open" == cells[2]
            assert cells[6].startswith(f"{one['findings'][0]['limit']} ({one['findings'][0]['certainty']})")
        for cell, name in ((cells[3], "p50"), (cells[4], "p99")):
            told = f"{spread[f'roundtrip_seconds_{name}'] * 1e3:.1f} ms"
            assert cell == (told if knee or one["outcome"] == "held" else "")
        assert cells[5] == f"{one['total_bytes_per_connection'] / 1024:.1f} KiB"


def test_the_table_of_names_is_that_of_the_recorded_scenarios(project_root: Path) -> None:
    readme = (project_root / "README.md").read_text(encoding="utf-8")
    folders = sorted((project_root / "data/reference/names").glob("seed-*"))
    results = [Confusion.load(folder) for folder in folders]
    assert [(one.seed, one.asked, len(one.judged)) for one in results] == [(seed, 200, 200) for seed in (7, 8, 9)]
    for one in results:
        for judged in one.judged:
            assert judged.title == draw(judged.number, one.seed).title
    assert seeds_table(results).markdown() in readme


def test_every_file_that_readme_points_to_is_there(project_root: Path) -> None:
    readme = (project_root / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)", readme) + re.findall(r'src(?:set)?="([^"]+)"', readme)
    assert [target for target in targets if "://" not in target and not (project_root / target).exists()] == []
    light = {target for target in targets if re.search(r"(?<!-dark)\.svg$", target)}
    assert light
    assert {target.replace(".svg", "-dark.svg") for target in light} <= set(targets)


def test_every_make_target_and_command_that_readme_names_exists(project_root: Path) -> None:
    import wslab.cli  # noqa: F401  its import fills the table
    from wslab.cli_options import commands as table

    readme = (project_root / "README.md").read_text(encoding="utf-8")
    makefile = (project_root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z]+)", readme))
    assert {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()
    commands = set(re.findall(r"`wslab ([a-z]+)", readme))
    assert {name for name in commands if name not in table.commands} == set()


# Stands in for make: notes how it was called, and ends as the tests would.
FAKE_MAKE = """#!/bin/bash
case "$*" in --version) exit;; esac
found=0; for program in nft ip; do if test -x "$(command -v $program)"; then found=$((found + 1)); fi; done
echo "$* $PYTEST_OPTIONS; $found found" >>calls
test "$*" = lint || test "$*" = browser-test || echo "==== $(wc -l <calls) passed in 1.00s ===="
test "$(wc -l <calls)" != "$FAILING"
"""


@pytest.mark.parametrize(("failing", "closing"), [(0, 1), (1, 1), (2, 2), (3, 1), (4, 1)])
def test_ci_calls_the_test_command_as_it_stands_and_again_without_the_optional_programs(
    project_root: Path, tmp_path: Path, failing: int, closing: int
) -> None:
    shutil.copytree(project_root / ".ci", tmp_path / ".ci")
    shutil.copy(project_root / "README.md", tmp_path)
    # Nothing is installed from a test.
    for name, text in {"make": FAKE_MAKE, "apt-get": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "FAILING": str(failing)}
    environment.pop("PYTEST_OPTIONS", None)
    done = subprocess.run([".ci/run"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    first, second, third, fourth = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert first.startswith("test ;")
    assert re.fullmatch(r"test --without=\S*nft\S*; 0 found", second)
    assert third.startswith("lint ")
    assert fourth.startswith("browser-test ")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (int(failing > 0), f"{closing} passed in 1.00s")
