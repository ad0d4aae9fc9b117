"""Preflight answers in one sentence, with every ceiling behind it, and starts nothing."""

from __future__ import annotations

import json

import pytest

from wslab.core.quantities import BadInput
from wslab.lab.preflight import preflight


def test_without_a_number_it_says_how_far_this_machine_goes_and_what_ends_it() -> None:
    look = preflight()
    assert look.first is not None
    assert look.sentence.startswith("this machine can hold about ")
    assert look.first.limit in look.sentence
    assert look.first.ceiling_connections == min(
        row.ceiling_connections for row in look.ceilings if row.binding and row.ceiling_connections is not None
    )


def test_with_a_number_it_says_whether_that_fits() -> None:
    assert preflight(100).sentence.startswith("100 fits")
    look = preflight("500M")
    assert look.sentence.startswith("500M does not fit: ")
    assert look.as_dict()["fits"] is False


def test_it_reads_as_text_table_html_and_json() -> None:
    look = preflight("10k")
    document = json.loads(json.dumps(look.as_dict()))
    assert len(document["ceilings"]) == len(look.ceilings) == len(look.table())
    for shown in (look.text(), look._repr_html_()):
        assert "memory_machine" in shown
        assert look.machine.line in shown


@pytest.mark.parametrize("connections", [0, -1, "x", "0.5"])
def test_a_number_that_makes_no_sense_is_refused(connections: object) -> None:
    with pytest.raises(BadInput, match="connections="):
        preflight(connections)


def test_of_a_server_that_nobody_has_measured_it_says_that_its_memory_is_not_counted() -> None:
    assert preflight(100, server="node my.js --port {port}").sentence.endswith(
        "not counted, as only a run can measure it"
    )
    assert "counted" not in preflight(100, server="asyncio").sentence
