"""How a client gets in: the path, the headers and the subprotocol of its upgrade request.

1. `{n}` stands for the number of the connection, from 0, and `{hex}` for 16 hexadecimal digits of its own, in the path
   and in the values of headers.
2. What would end a header early, and what the upgrade itself depends on, is refused.
3. The values of headers that carry secrets are never written to a record.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from wslab.core.quantities import BadInput, refuse

NUMBER, HEX = "{n}", "{hex}"
FIELDS = re.compile(r"\{n\}|\{hex\}")
# RFC 9110, 5.6.2: what a name may consist of.
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# The upgrade depends on them, or they would announce a body that never comes.
FORBIDDEN = ("upgrade", "connection", "content-length", "transfer-encoding", "expect", "te", "trailer")
FORBIDDEN_PREFIX = "sec-websocket-"
SECRET = re.compile(r"auth|cookie|token|secret|password|api-?key", re.IGNORECASE)
NOT_RECORDED = "(not recorded)"
# The built-in servers take requests of up to 16 KiB, as Node does; a worker has room for four times as much.
REQUEST_BYTES_MAX = 1 << 14


def parse_headers(value: object, name: str = "headers") -> tuple[str, ...]:
    """Return headers as lines `Name: value`.

    Args:
        value: one a line, a list of them, or nothing.
        name: what to call them in an error.

    Raises:
        BadInput: one is no header, or must not be set.
    """
    if value is None:
        return ()
    lines = value.split("\n") if isinstance(value, str) else value
    if not isinstance(lines, list | tuple):
        raise refuse(name, value, "text such as Authorization: Bearer abc, one header a line")
    headers = tuple(_header(line, name) for line in lines if not isinstance(line, str) or line.strip(" "))
    if sum(map(len, headers)) > REQUEST_BYTES_MAX:
        raise BadInput(f"{name} have more than {REQUEST_BYTES_MAX:,} bytes")
    return headers


def split_header(header: str) -> tuple[str, str]:
    """Return the name and the value of a header `Name: value`."""
    key, _, text = header.partition(":")
    return key.strip(" "), text.strip(" ")


def _header(line: object, name: str) -> str:
    if not isinstance(line, str) or ":" not in line:
        raise refuse(name, line, "text such as Authorization: Bearer abc")
    key, text = split_header(line)
    if not (line.isascii() and line.isprintable()):
        # The value may be a secret, so only the name is quoted.
        raise BadInput(f"{name}: {key!a} has a line break or a character that is not printable ASCII")
    if not TOKEN.fullmatch(key):
        raise BadInput(f"{name}: {key!r} is no name of a header")
    if key.lower() in FORBIDDEN or key.lower().startswith(FORBIDDEN_PREFIX):
        instead = "; use subprotocol" if key.lower() == "sec-websocket-protocol" else ""
        raise BadInput(f"{name}: {key} belongs to the upgrade itself and cannot be set{instead}")
    if text == NOT_RECORDED:
        raise BadInput(f"{name}: the value of {key} was not recorded; give it again")
    return f"{key}: {text}"


def recorded_headers(headers: Sequence[str]) -> list[str]:
    """Return headers as they may be written down: without the values of those that carry secrets."""
    pairs = map(split_header, headers)
    return [f"{key}: {NOT_RECORDED if SECRET.search(key) else text}" for key, text in pairs]


def parse_path(value: object, name: str = "path") -> str:
    """Return the path of an upgrade request, with its query; empty for that of the URL.

    Raises:
        BadInput: it is no path.
    """
    if value is None or value == "":
        return ""
    plain = isinstance(value, str) and value.startswith("/") and value.isascii() and value.isprintable()
    if not isinstance(value, str) or not plain or set(value) & set(" #") or len(value) > REQUEST_BYTES_MAX:
        raise refuse(name, value, "a path such as /chat?user={n}")
    if set(FIELDS.sub("", value)) & set("{}"):
        raise refuse(name, value, f"no other fields than {NUMBER} (number of the connection) and {HEX}")
    return value


def parse_subprotocol(value: object, name: str = "subprotocol") -> str:
    """Return the subprotocol that is asked for; empty for none.

    Raises:
        BadInput: it is no name of a subprotocol.
    """
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not TOKEN.fullmatch(value):
        raise refuse(name, value, "a name such as graphql-transport-ws")
    return value
