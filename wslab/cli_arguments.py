"""What can be typed: the commands, their options and help, and what completes them in a shell.

1. Options of a stage are derived from `PARAMETERS` and parsed where notebooks' parameters are, by `Stage.of`.
2. What cannot be parsed is refused in one line with status 2, like every other bad input, and never with a usage text.
3. Options are not abbreviated: consent to load a target is given in full or not at all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wslab.cli_shell import DIRECTORY, SHELLS, PrintCompletion, PrintVersion, command_parsers, completes
from wslab.core.quantities import BadInput, format_bytes
from wslab.core.stage import PARAMETERS, SERVER_KINDS, Parameter
from wslab.core.target import CONSENT_OPTION

BAD_INPUT = 2
DEFAULT_STAGES = "10k,100k,700k,1M"
# Parameters that make no sense where the server is somebody else's.
SERVER_PARAMETERS = ("server", "server_shards", "memory_cap")
# Parameters that no kernel setting depends on; and the target, which has another default there.
UNTUNED_PARAMETERS = ("connections", "server", "ramp_rate", "hold_seconds", "memory_cap", "data_dir", "label", "tune")


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> Any:
        """Print one line and leave with status 2."""
        self.exit(BAD_INPUT, f"{self.prog}: {' '.join(message.split())}\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command: what the help says of it, and what adds its options.

    Attributes:
        summary: what it does, as the help shows it.
        example: what may be typed.
        options: adds its options to its parser.
    """

    summary: str
    example: str
    options: Callable[[Parser], None]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace | None:
    """Return the options of the command that was typed, its name as `command`; None after showing the help.

    Raises:
        BadInput: an option is unknown; the nearest that is known is named.
    """
    parser = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    command = getattr(options, "command", None)
    if unknown:
        known = command_parsers(parser)[command]._option_string_actions if command else parser._option_string_actions
        raise BadInput(_unknown(unknown[0], command or "", list(known)))
    if command is None:
        parser.print_help()
        return None
    return options


def build_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="wslab",
        description="How many WebSocket connections can this server hold on this machine, what breaks first, "
        "and what do I change?",
        epilog="example: wslab stage --connections 100k",
    )
    parser.add_argument("--version", action=PrintVersion, nargs=0, help="print the version")
    completion = f"print a completion script for {', '.join(SHELLS[:-1])} or {SHELLS[-1]}"
    parser.add_argument("--print-completion", action=PrintCompletion, metavar="SHELL", choices=SHELLS, help=completion)
    added = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
        summary = command.summary
        lower = summary[0].lower() + summary[1:]
        one = added.add_parser(name, help=lower, description=f"{summary}.", epilog=f"example: {command.example}")
        one.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
        one.set_defaults(command=name)
        command.options(one)
    return parser


# The options of each command.


def _preflight(parser: Parser) -> None:
    parser.add_argument("--connections", metavar="N", help="say whether so many fit, such as 700k")


def _sweep(parser: Parser) -> None:
    parser.add_argument("--stages", default=DEFAULT_STAGES, metavar="LIST", help="default %(default)s")
    parser.add_argument("--keep-going", action="store_true", help="go on after a stage that broke")
    parser.add_argument(
        "--breaks",
        nargs="?",
        const="all",
        metavar="LIST",
        help="instead of stages: break limits on purpose, name and lift each; all, or names such as conntrack. "
        "Machine-wide limits are broken only when named: conntrack, conntrack_before_accept_queue, "
        "conntrack_buckets, epoll_watches, nr_open, file_max, device_backlog, tcp_mem",
    )
    add_parameters(parser, without=("connections",))


def _serve(parser: Parser) -> None:
    kind = parser.add_argument("kind", metavar="KIND", help="server kind: " + ", ".join(SERVER_KINDS))
    completes(kind, SERVER_KINDS)
    parser.add_argument("--host", default="127.0.0.1", help="default %(default)s")
    parser.add_argument("--port", default="0", help="default %(default)s: any that is free")
    parser.add_argument("--shards", default="auto", metavar="N", help="server processes; default one a core")


def _swarm(parser: Parser) -> None:
    parser.add_argument("url", metavar="URL", help="a ws:// URL")
    parser.add_argument(CONSENT_OPTION, action="store_true", help="dial a target that is not loopback")
    add_parameters(parser, without=SERVER_PARAMETERS)


def _tune(parser: Parser) -> None:
    parser.add_argument("--connections", metavar="N", default=argparse.SUPPRESS, help="default what the memory holds")
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument("--apply", action="store_true", help="write what is needed; it asks nothing more")
    doing.add_argument("--revert", action="store_true", help="put back what was written")
    parser.add_argument("--all", action="store_true", help="with --apply: what is recommended, too")
    parser.add_argument("--write", default="", metavar=DIRECTORY, help="write the files to keep into this folder")
    add_parameters(parser, without=UNTUNED_PARAMETERS)


def _report(parser: Parser) -> None:
    _data_dir(parser)
    parser.add_argument("--out", default="", metavar=DIRECTORY, help="folder for the report; default data/report")


def _data_dir(parser: Parser) -> None:
    parser.add_argument("--data-dir", default="", metavar=DIRECTORY, help="folder of the recorded runs")


def _bench(parser: Parser) -> None:
    parser.add_argument("--connections", default="10k,100k", metavar="LIST", help="default %(default)s")
    parser.add_argument("--repetitions", default="5", metavar="N", help="default %(default)s")


def _nothing(parser: Parser) -> None:
    """Add nothing: the command has no options of its own."""


def add_parameters(parser: Parser, without: tuple[str, ...] = ()) -> None:
    """Add the parameters of a stage as options."""
    for parameter in PARAMETERS:
        if parameter.name in without:
            continue
        # A flag may stand without a value.
        flag: dict[str, Any] = {"nargs": "?", "const": True} if isinstance(parameter.default, bool) else {}
        option = parser.add_argument(
            "--" + parameter.name.replace("_", "-"),
            **flag,
            metavar=DIRECTORY if parameter.name.endswith("_dir") else "X",
            default=argparse.SUPPRESS,
            help=_help(parameter).replace("%", "%%"),
        )
        if parameter.name == "server":
            completes(option, SERVER_KINDS)


def _help(parameter: Parameter) -> str:
    default: Any = parameter.default
    if isinstance(default, bool):
        default = "yes" if default else "no"
    elif parameter.name.startswith("memory_") and isinstance(default, int):
        default = format_bytes(default).replace(" ", "")
    example = f", such as {parameter.example}" if str(parameter.example) != str(default) else ""
    return parameter.help + example + (f" (default {default})" if default != "" else "")


def _unknown(typed: str, command: str, options: list[str]) -> str:
    from difflib import get_close_matches  # Only a refusal needs it.

    name, where = typed.partition("=")[0], f" of wslab {command}" if command else ""
    if not name.startswith("-"):
        return f"{typed} is one word too many: see wslab {command} --help"
    near = [option for option in options if option.startswith(name)] or get_close_matches(name, options, n=1)
    return f"unknown option {name}{where}: " + (f"did you mean {near[0]}?" if near else f"see wslab {command} --help")


COMMANDS: dict[str, Command] = {
    "preflight": Command(
        summary="Say what this machine allows", example="wslab preflight --connections 3M", options=_preflight
    ),
    "stage": Command(
        summary="Run one stage", example="wslab stage --connections 1M --hold-seconds 30", options=add_parameters
    ),
    "sweep": Command(
        summary="Run several stages through the notebook", example="wslab sweep --stages 10k,100k", options=_sweep
    ),
    "serve": Command(summary="Serve until interrupted", example="wslab serve lean --port 9000", options=_serve),
    "swarm": Command(
        summary="Load a server that runs already",
        example="wslab swarm ws://127.0.0.1:9000 --connections 10k",
        options=_swarm,
    ),
    "tune": Command(
        summary="Say which kernel settings a target needs", example="wslab tune --connections 2M", options=_tune
    ),
    "runs": Command(summary="List recorded runs", example="wslab runs", options=_data_dir),
    "report": Command(
        summary="Write the report of recorded runs", example="wslab report --out report", options=_report
    ),
    "ps": Command(summary="List processes of wslab that run", example="wslab ps", options=_nothing),
    "clean": Command(
        summary="End and put back what earlier runs have left behind", example="wslab clean", options=_nothing
    ),
    "bench": Command(
        summary="Measure the lean server against the floor",
        example="wslab bench --connections 100k --repetitions 5",
        options=_bench,
    ),
}
