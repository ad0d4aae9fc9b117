"""Compile the event loops, so that no stage has to: `python -m wslab.load.engine`, which `make setup` runs."""

from __future__ import annotations

from wslab.load.engine import cache

for loop in cache.LOOPS:
    cache.load(loop)
