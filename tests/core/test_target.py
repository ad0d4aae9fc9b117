"""Targets: which URLs can be dialled at all, and which need the word of whoever operates them."""

from __future__ import annotations

import pytest

from wslab.core.quantities import BadInput
from wslab.core.target import check_target, is_loopback, parse_url


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("ws://127.0.0.1:9000", ("127.0.0.1", 9000, "/", "127.0.0.1:9000")),
        ("ws://127.0.0.1", ("127.0.0.1", 80, "/", "127.0.0.1")),
        ("ws://localhost:9000/chat?room=1", ("localhost", 9000, "/chat?room=1", "localhost:9000")),
        ("ws://localhost?room=1", ("localhost", 80, "/?room=1", "localhost")),
        ("ws://[::1]:9000/", ("::1", 9000, "/", "[::1]:9000")),
        ("ws://[::1]", ("::1", 80, "/", "[::1]")),
        ("tcp://127.0.0.2:65535", ("127.0.0.2", 65535, "/", "127.0.0.2:65535")),
    ],
)
def test_a_url_is_split_into_what_dialling_it_takes(url: str, parts: tuple[str, int, str, str]) -> None:
    assert parse_url(url) == parts


@pytest.mark.parametrize(
    "url",
    [
        *("", "ws://", "ws:///path", "127.0.0.1:9000", "http://127.0.0.1", "wss://127.0.0.1", "ws:127.0.0.1"),
        *("ws://127.0.0.1:0", "ws://127.0.0.1:65536", "ws://127.0.0.1:x", "ws://127.0.0.1:", "ws://127.0.0.1:-1"),
        *("ws://[::1]:99999", "ws://[::1", "ws://user@127.0.0.1", "ws://user:word@127.0.0.1:80"),
        *("ws://127.0.0.1/#part", "ws://127.0.0.1/a b", "ws://127.0.0.1/a\r\nX: y", "ws://127.0.0.1/ü", " ws://h"),
        "ws://127.0.0.1:" + "9" * 5000,
    ],
)
def test_what_is_no_url_of_a_server_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(BadInput, match=r"is not usable; expected a URL such as ws://127\.0\.0\.1:9000/path") as refused:
        check_target(url, consent=True)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.255.0.9", "::1"])
def test_loopback_needs_nobodys_word(host: str) -> None:
    assert is_loopback(host)
    check_target(f"ws://{f'[{host}]' if ':' in host else host}:9000", consent=False)


@pytest.mark.parametrize(
    "host",
    [
        *("example.org", "10.0.0.1", "128.0.0.1", "0.0.0.0", "localhost.example.org", "127.0.0.1.example.org"),
        # What a resolver may read in another way than we do is not loopback.
        *("127.1", "127.0.0.01", "127.0.0.08", "127.0.0.256", "2130706433", "127.0.0.1.", "LOCALHOST"),
    ],
)
def test_any_other_host_needs_the_word_of_its_operator(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(BadInput, match="is not loopback; if it is yours to load, add --i-operate-this-target"):
        check_target(f"ws://{host}:9000", consent=False)
    check_target(f"ws://{host}:9000", consent=True)
