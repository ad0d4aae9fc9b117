"""What every test needs: a figure never opens a window, and nothing depends on how the tests were started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Set before matplotlib is imported, and inherited by the notebooks that tests execute.
os.environ["MPLBACKEND"] = "agg"


@pytest.fixture(scope="session")
def project_root() -> Path:
    """Return the folder of the repository."""
    return Path(__file__).resolve().parents[1]
