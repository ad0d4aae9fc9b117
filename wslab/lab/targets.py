"""Whether a server that runs already may be dialled, and can be: asked before anything is started."""

from __future__ import annotations

import socket

from wslab.core.quantities import BadInput
from wslab.core.target import check_target, parse_url


def check_dialable(target: str, consent: bool) -> None:
    """Refuse a target that may not be loaded, or whose name nobody knows.

    Args:
        target: its URL.
        consent: the caller's word that a target outside loopback is theirs to load.

    Raises:
        BadInput: one line says why not.
    """
    check_target(target, consent)
    host, port, _, _ = parse_url(target)
    try:
        socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as problem:
        raise BadInput(f"target {host} is not known here: {getattr(problem, 'strerror', None) or problem}") from problem
