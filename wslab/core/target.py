"""Where a swarm may dial: loopback always, any other address only when the caller says that it is theirs.

Imported by the swarm's processes: it imports nothing until it refuses.
"""

from __future__ import annotations

SCHEMES = ("ws", "tcp")
DEFAULT_PORT = 80
CONSENT_OPTION = "--i-operate-this-target"
_OCTETS = frozenset(map(str, range(256)))


def parse_url(url: str) -> tuple[str, int, str, str]:
    """Split a `ws://` or `tcp://` URL.

    Returns:
        Host (without the brackets of an IPv6 address), port, path with its query, and authority as it was written.

    Raises:
        BadInput: it is not such a URL; the text is one line.
    """
    scheme, found, rest = url.partition("://")
    slash = min((index for index in (rest.find("/"), rest.find("?")) if index >= 0), default=len(rest))
    authority, path = rest[:slash], rest[slash:]
    host, colon, port = authority.rpartition(":")
    if not colon or "]" in port:
        host, port = authority, str(DEFAULT_PORT)
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    # Spaces and control characters would end the request line early; a fragment is never sent to a server.
    plain = url.isascii() and url.isprintable() and not set(url) & set(" #")
    if not found or not plain or scheme not in SCHEMES or not host or set(host) & set("[]@") or not _is_port(port):
        raise _refuse(f"target {url!r} is not usable; expected a URL such as ws://127.0.0.1:9000/path")
    return host, int(port), path if path.startswith("/") else "/" + path, authority


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine's loopback: localhost, 127.0.0.0/8 or ::1.

    Other names are not looked up: what a name stands for can change between the check and the dial.
    """
    parts = host.split(".")
    # With a leading zero it is an octal number for some, and a name for others.
    numeric = len(parts) == 4 and all(part in _OCTETS for part in parts)
    return host in ("localhost", "::1") or (numeric and int(parts[0]) == 127)


def check_target(url: str, consent: bool) -> None:
    """Refuse a target outside loopback unless the caller has said that they operate it.

    Raises:
        BadInput: the URL cannot be used, or its host is not loopback and consent is missing.
    """
    host, _, _, _ = parse_url(url)
    if not is_loopback(host) and not consent:
        raise _refuse(f"target {host} is not loopback; if it is yours to load, add {CONSENT_OPTION}")


def _is_port(text: str) -> bool:
    return len(text) < 6 and text.isdecimal() and 0 < int(text) < 65536


def _refuse(text: str) -> ValueError:
    from wslab.core.quantities import BadInput

    return BadInput(text)
