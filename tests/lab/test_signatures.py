"""Functions that take the parameters of a stage show them, so that Tab, `?` and Shift-Tab teach them."""

from __future__ import annotations

import inspect

import pytest

import wslab
from wslab.core.stage import PARAMETERS

LEFT_OUT = {
    "run_stage": set(),
    "preflight": set(),
    "sweep": {"connections"},
    "compare_servers": {"server", "server_port", "server_pid", "label", "tune"},
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_every_parameter_is_shown_with_its_default_and_its_meaning(name: str) -> None:
    function = getattr(wslab, name)
    shown = inspect.signature(function).parameters
    assert not [one for one in shown.values() if one.kind is inspect.Parameter.VAR_KEYWORD]
    assert not {"enclosure", "specs", "commands", "place"} & set(shown)
    for parameter in PARAMETERS:
        assert (parameter.name in shown) == (parameter.name not in LEFT_OUT[name])
        if parameter.name in shown and parameter.name != "connections":
            assert shown[parameter.name].default == parameter.default
            assert f"    {parameter.name}: {parameter.help}" in function.__doc__
    assert inspect.cleandoc(function.__doc__).splitlines()[0].endswith((".", "`."))


def test_the_package_shows_its_public_names_and_no_others() -> None:
    assert {name for name in dir(wslab) if not name.startswith("__")} == set(wslab.__all__)
    for name in wslab.__all__:
        assert getattr(wslab, name) is not None
    assert {name for name in dir(wslab) if not name.startswith("__")} == set(wslab.__all__)
