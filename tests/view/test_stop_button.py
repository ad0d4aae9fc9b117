"""The Stop button beside the live view: where there is one, and what pressing it does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from wslab.view import stop_button
from wslab.view.stop_button import hears_while_busy, offer_stop


class Button:
    """Stands in for that of ipywidgets."""

    def __init__(self, description: str, **_: Any) -> None:
        self.description, self.disabled, self.closed = description, False, False
        self.comm = SimpleNamespace()

    def on_click(self, pressed: Callable[[Any], None]) -> None:
        self.press = lambda: pressed(self)

    def close(self) -> None:
        self.closed = True


class Page:
    """Stands in for the display of IPython: keeps what is shown."""

    def __init__(self) -> None:
        self.shown: Any = None

    def display(self, what: Any, display_id: bool) -> Page:
        assert display_id
        self.shown = what
        return self

    def update(self, what: Any) -> None:
        self.shown = what

    def HTML(self, text: str) -> str:
        return text


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    """A page of JupyterLab with a kernel that has subshells and ipywidgets."""
    widgets: Any = ModuleType("ipywidgets")
    widgets.Button = Button
    monkeypatch.setitem(sys.modules, "ipywidgets", widgets)
    ipython: Any = ModuleType("IPython")
    ipython.display = page = Page()
    ipython.get_ipython = lambda: SimpleNamespace(kernel=kernel("subshell_id"))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    return page


def kernel(*header: str, subshells: bool = True) -> Any:
    parent = {"header": dict.fromkeys(header)}
    return SimpleNamespace(_supports_kernel_subshells=subshells, get_parent=lambda: parent)


def test_pressing_it_stops_the_run_once_and_says_so(page: Page) -> None:
    stopped: list[str] = []
    assert offer_stop("/data/runs/a", stopped.append) is not None
    page.shown.press()
    assert stopped == ["/data/runs/a"]
    assert (page.shown.disabled, page.shown.description) == (True, "Stopping …")


def test_what_the_button_says_stays_in_the_thread_that_the_page_names(page: Page) -> None:
    offer_stop("/data/runs/a", lambda _: None)
    assert page.shown.comm._reply_subshell_for({"method": "custom"}, "of the page") == "of the page"


def test_nothing_of_it_is_left_at_the_end(page: Page) -> None:
    take_away = offer_stop("/data/runs/a", lambda _: None)
    button = page.shown
    assert take_away is not None
    take_away()
    assert (page.shown, button.closed) == ("", True)


@pytest.mark.parametrize(
    "kernel",
    [None, kernel("subshell_id", subshells=False), kernel("msg_id")],
    ids=["outside a kernel", "a kernel without subshells", "papermill, which has no page"],
)
def test_there_is_none_where_nobody_would_hear_it(kernel: Any, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    assert not hears_while_busy()
    assert offer_stop("/data/runs/a") is None
    assert page.shown is None


def test_there_is_none_without_ipywidgets(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert stop_button.hears_while_busy()
    assert offer_stop("/data/runs/a") is None
    assert page.shown is None
