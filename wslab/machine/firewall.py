"""The rules of the firewall that can refuse or drop a packet, with how many each has met.

Reading them takes root. The programs that loaded them are asked, since they know the rules in the words in which they
were written: `nft` as JSON, and `iptables-save` for what was loaded by the older interface.

1. Only rules that end a packet's way are returned, and base chains whose policy does.
2. A rule without `counter` has no number of packets: None.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from wslab.core.records import DROPS, REFUSES

# nft is for administrators, and its folder is not in everybody's path.
_PATH = "/usr/sbin:/sbin:/usr/local/sbin"
# Thousands of rules take a second; a run does not wait longer for them.
_ANSWER_SECONDS = 2.0
# More rules than these are not kept: a ruleset that long is a cluster's, and is told by its first ones.
RULES_MOST = 200

_NFT_VERDICTS = {"reject": REFUSES, "drop": DROPS}
_IPTABLES_RULE = re.compile(r"^\[(\d+):\d+\] -A (\S+) (.*-j (REJECT|DROP)\b.*)$")
_IPTABLES_POLICY = re.compile(r"^:(\S+) DROP \[(\d+):\d+\]$")
# A table that this program has for the other one's rules; its own are told there.
_FOREIGN = "xt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule that refuses or drops packets.

    Attributes:
        chain: where it stands: `inet filter input`.
        text: the rule as it is written, without its counter.
        effect: `refuses` or `drops`.
        limits: whether it does so from a rate or a count on.
        packets: packets that it has met; None where it does not count.
    """

    chain: str
    text: str
    effect: str
    limits: bool
    packets: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the rule as it is written to JSON."""
        return asdict(self)


def find_nft() -> str | None:
    """Return the nft program, or None when it is not installed."""
    return _find("nft")


def read_rules() -> list[Rule] | None:
    """Return the rules of this network namespace that can end a packet's way; None where none can be read."""
    asked = ((["nft", "-j", "list", "ruleset"], parse_nft), (["iptables-save", "-c"], parse_iptables))
    told = [parse(text) for command, parse in asked if (text := _output(command)) is not None]
    return [rule for rules in told for rule in rules][:RULES_MOST] if told else None


def parse_nft(text: str) -> list[Rule]:
    """Parse what `nft -j list ruleset` prints.

    Raises:
        ValueError: it is not that.
    """
    found = []
    for item in json.loads(text)["nftables"]:
        if chain := item.get("chain"):
            if chain.get("policy") == "drop":
                found.append(Rule(chain=_chain(chain), text="policy drop", effect=DROPS, limits=False, packets=None))
        elif rule := item.get("rule"):
            found += _nft_rule(rule)
    return found


def parse_iptables(text: str) -> list[Rule]:
    """Parse what `iptables-save -c` prints."""
    found, table = [], ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif match := _IPTABLES_RULE.match(line):
            packets, chain, rule, target = match.groups()
            effect = REFUSES if target == "REJECT" else DROPS
            limits = re.search(r"-m (limit|hashlimit|connlimit|recent)\b", rule) is not None
            found.append(
                Rule(chain=f"iptables {table} {chain}", text=rule, effect=effect, limits=limits, packets=int(packets))
            )
        elif match := _IPTABLES_POLICY.match(line):
            chain, packets = match.groups()
            found.append(
                Rule(
                    chain=f"iptables {table} {chain}",
                    text="policy DROP",
                    effect=DROPS,
                    limits=False,
                    packets=int(packets),
                )
            )
    return found


def _nft_rule(rule: dict[str, Any]) -> Iterator[Rule]:
    statements = [(name, value) for statement in rule["expr"] for name, value in statement.items()]
    effect = next((_NFT_VERDICTS[name] for name, _ in statements if name in _NFT_VERDICTS), None)
    if effect is None or any(name == _FOREIGN for name, _ in statements):
        return
    packets = next((value["packets"] for name, value in statements if name == "counter" and value), None)
    yield Rule(
        chain=_chain({**rule, "name": rule["chain"]}),
        text=" ".join(_statement(name, value) for name, value in statements if name != "counter"),
        effect=effect,
        limits=any(name in ("limit", "ct count", "quota") for name, _ in statements),
        packets=packets,
    )


def _chain(item: dict[str, Any]) -> str:
    return f"{item['family']} {item['table']} {item['name']}"


def _statement(name: str, value: Any) -> str:
    """Return a statement of a rule in the words of nft, as far as rules about connections need them."""
    if name == "match":
        equal = "" if value["op"] in ("==", "in") else f"{value['op']} "
        return f"{_term(value['left'])} {equal}{_term(value['right'])}"
    if name == "ct count":
        return f"ct count {'over ' if value.get('inv') else ''}{value['val']}"
    if name == "limit":
        return f"limit rate {'over ' if value.get('inv') else ''}{value['rate']}/{value['per']}"
    if name == "reject" and value:
        return " ".join(["reject with", value.get("type", ""), value.get("expr", "")]).strip()
    if name == "set":
        return f"{value['op']} {value['set']}"
    return name if value is None else f"{name} {_term(value)}"


def _term(value: Any) -> str:
    if isinstance(value, list):
        return "|".join(map(_term, value))
    if not isinstance(value, dict):
        return str(value)
    ((name, inner), *_) = value.items()
    if name == "payload" and "protocol" in inner:
        return f"{inner['protocol']} {inner['field']}"
    if name in ("ct", "meta") and "key" in inner:
        return f"ct {inner['key']}" if name == "ct" else str(inner["key"])
    if name == "prefix":
        return f"{inner['addr']}/{inner['len']}"
    if name == "set":
        return f"{{ {', '.join(map(_term, inner))} }}"
    if name in ("&", "|", "^"):
        return f" {name} ".join(map(_term, inner))
    return json.dumps(value)


def _find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=_PATH)


def _output(command: list[str]) -> str | None:
    """Return what a program prints; None where it is not there, fails or takes too long."""
    program = _find(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=_ANSWER_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
