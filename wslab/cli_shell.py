"""What the command line prints instead of running a command: its version, and scripts that complete it in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DIRECTORY = "DIR"
SHELLS = ("bash", "zsh", "tcsh")


class PrintVersion(argparse.Action):
    """Prints the version of the installed package; looking for it takes longer than all the parsing."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the version and leave."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            text = version("wslab")
        except PackageNotFoundError:
            text = f"(not installed, {Path(__file__).parent})"
        print(f"wslab {text}")
        parser.exit(0)


class PrintCompletion(argparse.Action):
    """Prints a shell completion script; the library for it is loaded only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the script for the shell that was named, and leave."""
        import shtab

        for one in command_parsers(parser).values():
            for action in one._actions:
                action.choices = getattr(action, "completes", action.choices)
                if action.metavar == DIRECTORY:
                    action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        print(shtab.complete(parser, _[1]))
        parser.exit(0)


def completes(action: argparse.Action, words: Iterable[str]) -> None:
    """Have a shell complete an argument to these words.

    They are no `choices`: the command itself refuses other words, in the same way as a notebook does.
    """
    action.completes = list(words)  # type: ignore[attr-defined]


def command_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    return next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
