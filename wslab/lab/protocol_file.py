"""The application protocol of a stage: a row of the table, or the one that a TOML file describes."""

from __future__ import annotations

import tomllib
from pathlib import Path

from wslab.core.protocols import PROTOCOLS, Protocol, own_protocol
from wslab.core.quantities import BadInput


def read_protocol(name: str) -> Protocol:
    """Return the protocol of this name, or of this file.

    Raises:
        BadInput: the file cannot be read or used; one line says why.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    path = Path(name).expanduser()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise BadInput(f"protocol {path} cannot be read: {problem.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise BadInput(f"protocol {path} is no TOML: {problem}") from None
    return own_protocol(table, path.name)
