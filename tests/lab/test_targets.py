"""Targets: what may not be dialled, or cannot, is refused before anything is started."""

from __future__ import annotations

import socket

import pytest

from wslab.core.quantities import BadInput
from wslab.lab.experiment import check_dialable


@pytest.mark.parametrize("url", ["ws://127.0.0.1:9", "ws://localhost", "tcp://[::1]:9"])
def test_loopback_is_dialable(url: str) -> None:
    check_dialable(url, consent=False)


def test_consent_is_asked_for_before_a_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("looked up"))
    with pytest.raises(BadInput, match=r"example\.org is not loopback"):
        check_dialable("ws://example.org", consent=False)


@pytest.mark.parametrize("host", ["nobody.invalid", "x" * 70])
def test_a_name_that_nobody_knows_is_refused(host: str) -> None:
    with pytest.raises(BadInput, match=f"target {host} is unknown: "):
        check_dialable(f"ws://{host}:9000", consent=True)
