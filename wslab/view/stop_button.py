"""A Stop button beside the live view of a notebook, where ipywidgets is installed and a busy kernel can hear it.

1. The thread that executes the cell is busy until the run ends. JupyterLab sends what a widget says to a subshell,
   which is another thread of ipykernel 7. A page that can do so names a subshell in the header of each request, also
   where that is None; elsewhere there is no button, for nobody would hear it.
2. ipykernel 7.4 hands what a widget says to the thread that last showed something of it, which is the busy one. The
   button's own channel leaves it where the page has sent it.
3. The button goes when the run has ended, and nothing of it stays in the saved notebook.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from wslab.lab import registry


def offer_stop(run_dir: str, stop: Callable[[str], object] = registry.stop_run) -> Callable[[], None] | None:
    """Show the button in the output of the running cell.

    Args:
        run_dir: folder of the run that it stops.
        stop: called with the folder, in a thread of its own, when the button is pressed.

    Returns:
        What takes the button away again; None where there can be none.
    """
    if not hears_while_busy():
        return None
    try:
        import ipywidgets
    except ImportError:
        return None
    from IPython import display as output

    button = ipywidgets.Button(
        description="Stop the run", icon="stop", tooltip="Ends the run and keeps what was recorded", button_style=""
    )
    if button.comm is not None:
        button.comm._reply_subshell_for = lambda data, sent_to: sent_to

    def pressed(_: Any) -> None:
        button.disabled, button.description = True, "Stopping …"
        stop(run_dir)

    button.on_click(pressed)
    shown = output.display(button, display_id=True)  # type: ignore[no-untyped-call]

    def take_away() -> None:
        shown.update(output.HTML(""))  # type: ignore[no-untyped-call]
        button.close()

    return take_away


def hears_while_busy() -> bool:
    """Return whether this is a cell of a page that sends what widgets say to a subshell, in a kernel that has these."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    kernel = getattr(shell, "kernel", None)
    if kernel is None or not getattr(kernel, "_supports_kernel_subshells", False):
        return False
    return "subshell_id" in (kernel.get_parent().get("header") or {})
