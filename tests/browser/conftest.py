"""A JupyterLab for all tests of this folder, and a page for each; skipped by name where there is no browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from browser.lab import PATIENCE_SECONDS, Lab, Page
from eventually import eventually

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Serve the notebooks with state and data of their own."""
    with Lab(tmp_path_factory.mktemp("lab")).running() as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Start Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make browser-test")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, lab: Lab) -> Iterator[Page]:
    """Open an empty page, and at the end end its kernels and see that nothing of a run is left."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    opened = Page(context.new_page(), lab)
    yield opened
    lab.end_kernels()
    context.close()
    eventually(lambda: not lab.processes(), PATIENCE_SECONDS)
