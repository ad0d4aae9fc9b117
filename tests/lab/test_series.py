"""What a run did second by second is computed from its cumulative columns, and explained."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from made_runs import make_run
from wslab.core.histogram import bucket_of, bucket_seconds
from wslab.core.quantities import BadInput
from wslab.core.records import SAMPLE_COLUMNS
from wslab.lab import series
from wslab.lab.runs import Run


def samples(**columns: list[float]) -> pd.DataFrame:
    """Return samples at 0, 1 and 3 seconds; what is not given was not read."""
    names = [column.name for column in SAMPLE_COLUMNS if column.name != "elapsed_seconds"]
    frame = pd.DataFrame(np.nan, index=pd.Index([0.0, 1.0, 3.0], name="elapsed_seconds"), columns=names)
    frame["phase"] = "ramp"
    return frame.assign(**columns)


def test_cpu_stands_as_shares_beside_the_cumulative_columns() -> None:
    told = series.with_fractions(
        samples(
            server_cpu_user_seconds=[1.0, 1.5, 2.5],
            server_cpu_system_seconds=[0.0, 0.25, 1.25],
            cpu_user_seconds=[10.0, 11.0, 11.0],
            cpu_idle_seconds=[50.0, 50.5, 52.5],
            cpu_iowait_seconds=[7.0, 7.5, 9.5],
        )
    )
    assert told["server_cpu_fraction"].tolist()[1:] == [0.75, 1.0]
    assert told["cpu_busy_fraction"].tolist()[1:] == [0.5, 0.0]
    assert told["swarm_cpu_fraction"].isna().all()
    assert np.isnan(told["server_cpu_fraction"].iloc[0])


def test_rates_are_per_second_whatever_the_interval() -> None:
    told = series.rates(
        samples(
            swarm_connections_opened=[0, 100, 500],
            swarm_messages_received=[0, 0, 40],
            swarm_connections_failed=[0, 0, 2],
            swarm_messages_failed=[0, 1, 1],
        )
    )
    assert told["connections_per_second"].tolist()[1:] == [100, 200]
    assert told["messages_per_second"].tolist()[1:] == [0, 20]
    assert told["failures_per_second"].tolist()[1:] == [1, 1]


def test_percentiles_are_those_of_each_second() -> None:
    fast, slow, slowest = (bucket_seconds(bucket_of(seconds)) for seconds in (0.001, 0.1, 2.0))
    rows = [
        (1.0, "roundtrip", fast, 99),
        (1.0, "roundtrip", slow, 1),
        (2.0, "roundtrip", fast, 50),
        (2.0, "roundtrip", slow, 49),
        (2.0, "roundtrip", slowest, 1),
        (2.0, "handshake", slowest, 5),
    ]
    table = pd.DataFrame(rows, columns=["elapsed_seconds", "kind", "bucket_seconds", "count"])
    told = series.percentiles(table, (0.5, 0.99, 1))
    assert list(told.columns) == ["p50", "p99", "p100"]
    assert told.loc[1.0].tolist() == [fast, fast, slow]
    assert told.loc[2.0].tolist() == [fast, slow, slowest]
    assert series.percentiles(table, (0.5,), "handshake")["p50"].to_dict() == {2.0: slowest}


@pytest.mark.parametrize("quantile", [0, -0.5, 99, "0.5"])
def test_a_quantile_that_is_none_is_refused(quantile: float, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at most 1, such as"):
        Run.load(make_run(tmp_path, 1_000)).percentiles(quantile)


def test_a_run_shows_its_rates_and_percentiles_also_without_any_sample(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path, 50_000))
    assert run.rates["connections_per_second"].max() > 0
    assert (run.percentiles()["p50"].dropna() > 0).all()
    assert run.percentiles(kind="handshake").index.name == "elapsed_seconds"
    with pytest.raises(BadInput, match="known are handshake, roundtrip"):
        run.percentiles(kind="ping")
    for name in ("samples.csv", "latency.csv"):
        (run.run_dir / name).unlink()
    empty = Run.load(run.run_dir)
    assert (len(empty.rates), len(empty.percentiles(0.5))) == (0, 0)


def test_every_column_of_the_samples_is_explained(tmp_path: Path) -> None:
    explained = series.columns()
    shown = Run.load(make_run(tmp_path, 1_000)).samples
    assert set(shown.columns) | {shown.index.name} == set(explained.index)
    assert all(explained["meaning"])
    assert all(explained["source"])
    assert explained.loc["oom_kills_total", "source"] == "/proc/vmstat oom_kill"
    assert set(series.columns("conntrack").index) == {name for name in explained.index if "conntrack" in name}
    with pytest.raises(BadInput, match="no column has 'nonsense'"):
        series.columns("nonsense")


def test_an_explanation_is_shown_whole() -> None:
    explained = series.columns("cpu")
    longest = max(explained["meaning"], key=len)
    assert len(longest) > 60
    for shown in (explained, explained[["meaning"]], explained.tail(99)):
        assert longest in repr(shown)
        assert html.escape(longest) in shown._repr_html_()
