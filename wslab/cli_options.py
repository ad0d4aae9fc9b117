"""What can be typed: how commands are declared, options that stages share, completion, and how mistakes are reported.

1. `commands` is the table of commands; `@command` adds one function to it, and its options stand above that function.
2. Options of a stage are derived from `PARAMETERS` and parsed by `Stage.of`, as parameters of notebooks are.
3. What cannot be parsed is refused in one line, like every other bad input, and never with a usage text.
4. Options are not abbreviated: consent to load a target is given in full or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from wslab.core.quantities import BadInput, did_you_mean, format_bytes
from wslab.core.servers import SERVER_KINDS
from wslab.core.stage import PARAMETERS, Parameter

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMPLETE_VARIABLE = "_WSLAB_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
DIRECTORY = "DIR"

Function = Callable[..., Any]
Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem[str]]"]


class Command(click.Command):
    """A command that refuses extra words, and option names where a value is expected."""

    allow_extra_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what was typed after the name of the command.

        Raises:
            BadInput: there is a word too many, or an option has no value.
        """
        rest = super().parse_args(ctx, args)
        if ctx.resilient_parsing:
            return rest
        if rest:
            raise BadInput(f"{rest[0]} is one word too many: see {ctx.command_path} --help")
        names = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        for parameter in self.get_params(ctx):
            value = ctx.params.get(parameter.name or "")
            if isinstance(value, str) and value.startswith("-") and value in names:
                raise BadInput(
                    f"option {parameter.opts[0]} of {ctx.command_path} needs a value, and {value} is an option"
                )
        return rest


class Commands(click.Group):
    """The table of commands; the help shows them in the order in which they were added."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(self.commands)


def print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the version of the installed package; looking for it takes longer than all the parsing."""
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        text = version("wslab")
    except PackageNotFoundError:
        text = "(not installed)"
    click.echo(f"wslab {text}")
    ctx.exit()


def print_completion(ctx: click.Context, _: click.Parameter, shell: str | None) -> None:
    """Print the script that makes a shell ask `wslab` for completions."""
    if not shell or ctx.resilient_parsing:
        return
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(commands, {}, "wslab", COMPLETE_VARIABLE).source())
    ctx.exit()


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="example: wslab stage --connections 100k",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=print_version, help="Print the version."
)
@click.option(
    "--print-completion",
    metavar="SHELL",
    type=click.Choice(SHELLS),
    is_eager=True,
    expose_value=False,
    callback=print_completion,
    help=f"Print a completion script for {', '.join(SHELLS[:-1])} or {SHELLS[-1]}.",
)
@click.pass_context
def commands(ctx: click.Context) -> int:
    """How many WebSocket connections can this server hold on this machine, what breaks first, and what do I change?"""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
    return 0


def command(*, example: str, details: str = "") -> Callable[[Function], click.Command]:
    """Return a decorator that adds a function to the table of commands.

    The function's name is the command's, its docstring the help; it gets `as_json` beside its own options and returns
    the exit status.

    Args:
        example: what may be typed, for the help.
        details: what the help says after the docstring.
    """

    def add(function: Function) -> click.Command:
        as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
        text = f"{function.__doc__}\n\n{details}"
        return commands.command(help=text, epilog=f"example: {example}")(as_json(function))

    return add


def stage_options(without: Iterable[str] = ()) -> Callable[[Function], Function]:
    """Return a decorator that adds the parameters of a stage as options; those not typed are None.

    Args:
        without: names of parameters to leave out.
    """

    def add(function: Function) -> Function:
        for parameter in reversed(PARAMETERS):
            if parameter.name not in without:
                function = _stage_option(parameter)(function)
        return function

    return add


def data_dir_option(function: Function) -> Function:
    """Add the folder of the recorded runs as an option; empty where it was not typed."""
    option = directory_option("--data-dir", help="Folder of the recorded runs; default the project's own.")
    return option(function)


def directory_option(*names: str, **settings: Any) -> Callable[[Function], Function]:
    """Return a decorator that adds an option for a folder, completed by the shell; empty where it was not typed."""
    return click.option(*names, default="", metavar=DIRECTORY, shell_complete=complete_directories, **settings)


def _stage_option(parameter: Parameter) -> Callable[[Function], Function]:
    settings: dict[str, Any] = {"metavar": "X"}
    if isinstance(parameter.default, bool):  # A flag may stand without a value.
        settings = {"metavar": "[yes|no]", "is_flag": False, "flag_value": "yes"}
    elif parameter.name == "server":
        settings = {"metavar": "KIND", "shell_complete": complete_words(SERVER_KINDS)}
    elif parameter.name.endswith("_dir"):
        settings = {"metavar": DIRECTORY, "shell_complete": complete_directories}
    return click.option("--" + parameter.name.replace("_", "-"), help=_help(parameter), **settings)


def _help(parameter: Parameter) -> str:
    default: Any = parameter.default
    if isinstance(default, bool):
        default = "yes" if default else "no"
    elif parameter.name.startswith("memory_") and isinstance(default, int):
        default = format_bytes(default).replace(" ", "")
    plain = isinstance(parameter.default, bool) or str(parameter.example) == str(default)
    example = "" if plain else f", such as {parameter.example}"
    text = parameter.help[0].upper() + parameter.help[1:]
    return text + example + (f" (default {default})." if default != "" else ".")


# Completion.


def complete_words(words: Iterable[str]) -> Complete:
    """Return a completion to some words.

    This is not a `click.Choice`: the command itself refuses other words, in the same way as a notebook does.
    """

    def complete(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem[str]]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(word) for word in words if word.startswith(typed)]

    return complete


def complete_directories(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem[str]]:
    """Have the shell complete the names of folders."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(typed, type="dir")]


# Mistakes.


def refusal_text(error: click.ClickException) -> str:
    """Return in one line what is wrong with what was typed and, if known, what to type instead."""
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx else "wslab"
    see = f"see {path} --help"
    if isinstance(error, click.NoSuchOption) and ctx is not None:
        names = [name for parameter in ctx.command.get_params(ctx) for name in parameter.opts]
        where = f" of {path}" if ctx.parent else ""
        return f"unknown option {error.option_name}{where}: {did_you_mean(error.option_name, names) or see}"
    if isinstance(error, click.NoSuchCommand):
        return f"unknown command {error.command_name}: {did_you_mean(error.command_name, commands.commands) or see}"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{path} needs {error.param.make_metavar(ctx or click.Context(commands))}: {see}"
    message = " ".join(error.format_message().split())
    return f"{message[:1].lower()}{message[1:].rstrip('.')}: {see}"
