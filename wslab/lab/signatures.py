"""Functions that take the parameters of a stage, shown with all of them: to Tab, to `?` and to Shift-Tab.

What is shown is made from the table of parameters, so that their names, defaults and help stand in one place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from wslab.core.stage import PARAMETERS

Function = TypeVar("Function", bound=Callable[..., Any])


def shows_parameters(*without: str) -> Callable[[Function], Function]:
    """Return a decorator for a function that passes `**parameters` on to `Stage.of`.

    The function is shown with each parameter, its default and its meaning. One that the function itself has keeps its
    own place and default.

    Args:
        *without: names of parameters that the function does not take.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        listed = [one for one in PARAMETERS if one.name not in {*without, *(other.name for other in own)}]
        more = [inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default) for one in listed]
        function.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        table = "\n".join(f"    {one.name}: {one.help}, such as {one.example}" for one in listed)
        function.__doc__ = (
            f"{inspect.getdoc(function) or ''}\n\nParameters of a stage, as numbers or as text:\n{table}\n"
        )
        return function

    return decorate
