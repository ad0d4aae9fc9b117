"""JupyterLab in Chromium, as a person has it before them: a server of its own, a page, and what its notebooks say.

Cells are read from the page's model of the notebook, because JupyterLab draws only those that are in view.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import nbformat

from eventually import eventually

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
# Kept for a person to look at; git ignores the folder.
SCREENSHOTS = ROOT / "tests" / "browser" / "screenshots"
TOKEN = "browser-test"
# A page that does not answer a trivial question for so long is frozen; a busy machine may keep it waiting for a while.
FROZEN_SECONDS = 20.0
# What takes a second on an idle machine is given so long on one that is busy with other things.
PATIENCE_SECONDS = 90.0

_CELLS = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    if (!panel || !panel.content || !panel.context.model) return null;
    return panel.content.widgets.map(cell => ({
        kind: cell.model.type,
        source: cell.model.sharedModel.getSource(),
        state: cell.model.executionState || "",
        count: cell.model.executionCount || null,
        outputs: cell.model.outputs ? cell.model.outputs.toJSON() : [],
    }));
}"""


# Resolves when what was asked for is drawn, with its pictures.
_DRAWN = """async () => {
    const frame = () => new Promise(resolve => requestAnimationFrame(resolve));
    await frame();
    await Promise.all([...document.images].filter(image => image.src).map(image => image.decode().catch(() => {})));
    await frame();
    await frame();
}"""

# Keeps every frame of a live view that the notebook receives, also those that are replaced at once.
_KEEP_FRAMES = """() => {
    window.liveFrames = [];
    for (const cell of window.jupyterapp.shell.currentWidget.content.widgets) {
        if (!cell.model.outputs) continue;
        cell.model.outputs.changed.connect(outputs => {
            for (const output of outputs.toJSON()) {
                const html = [].concat((output.data || {})['text/html'] || '').join('');
                if (html.includes('wslab-live') && window.liveFrames.at(-1) !== html) window.liveFrames.push(html);
            }
        });
    }
}"""


class Lab:
    """A JupyterLab server with a folder of notebooks, state and data of its own.

    Args:
        folder: an empty folder for all of it.
    """

    def __init__(self, folder: Path) -> None:
        self.notebooks, self.data = folder / "notebooks", folder / "data"
        shutil.copytree(ROOT / "notebooks", self.notebooks, ignore=shutil.ignore_patterns(".*"))
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "WSLAB_DATA_DIR": str(self.data),
            "XDG_STATE_HOME": str(folder / "state"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "IPYTHONDIR": str(folder / "ipython"),
        }
        # Nothing is asked of the network, and no question lies on the pictures.
        quiet = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
        quiet.parent.mkdir(parents=True)
        quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}', encoding="utf-8")
        self._runtime = folder / "runtime"
        self._log = folder / "jupyter.log"
        self._server = 0
        self.url = ""

    @contextmanager
    def running(self) -> Iterator[Lab]:
        """Serve for as long as the context lasts."""
        options = ["--no-browser", "--allow-root", "--expose-app-in-browser", "--port=0", "--ServerApp.port_retries=50"]
        options += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={self.notebooks}", "--log-level=ERROR"]
        with open(self._log, "wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *options], env=self.environment, stdout=log, stderr=log
            )
        self._server = server.pid
        try:
            self.url = eventually(self._url, PATIENCE_SECONDS)
            yield self
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def _url(self) -> str:
        for path in self._runtime.glob("jpserver-*.json"):
            try:
                return str(json.loads(path.read_text(encoding="utf-8"))["url"])
            except ValueError:
                pass
        return ""

    def write(self, name: str, *sources: str) -> str:
        """Write a notebook of code cells and return its name."""
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), self.notebooks / name)
        return name

    def with_parameters(self, template: str, name: str, **parameters: object) -> str:
        """Write a notebook of the project with other parameters under a name, and return the name."""
        notebook = nbformat.read(ROOT / "notebooks" / template, 4)
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        cell.source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items())
        nbformat.write(notebook, self.notebooks / name)
        return name

    def _ask(self, method: str, path: str) -> Any:
        """Call the server's own interface."""
        request = urllib.request.Request(
            f"{self.url}{path}", method=method, headers={"Authorization": f"token {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def end_kernels(self) -> None:
        """Shut down the kernels of all notebooks."""
        for session in self._ask("GET", "api/sessions"):
            try:
                self._ask("DELETE", f"api/sessions/{session['id']}")
            except urllib.error.HTTPError as problem:
                if problem.code < 500:  # A kernel that is being restarted cannot be ended at that moment.
                    raise

    def kernel_pids(self) -> list[int]:
        """Return the pids of the kernels."""
        children = Path(f"/proc/{self._server}/task/{self._server}/children").read_text(encoding="utf-8")
        return [int(pid) for pid in children.split() if b"ipykernel" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def wslab(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command with the state and the data of this lab."""
        command = [sys.executable, "-m", "wslab", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)

    def processes(self) -> list[dict[str, Any]]:
        """Return what `wslab ps` lists."""
        found: list[dict[str, Any]] = json.loads(self.wslab("ps", "--json").stdout)
        return found

    def runs(self) -> list[dict[str, Any]]:
        """Return the manifests of the runs that were recorded, oldest first."""
        paths = sorted((self.data / "runs").glob("*/run.json"))
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


class Page:
    """One page of the browser with one notebook open.

    Args:
        page: playwright's page.
        lab: the server.
    """

    def __init__(self, page: Any, lab: Lab) -> None:
        self.page, self.lab = page, lab

    def open(self, name: str, theme: str = "JupyterLab Light") -> Page:
        """Open a notebook and wait until its kernel is there."""
        self.page.goto(f"{self.lab.url}lab/tree/{name}?reset&token={TOKEN}")
        self.ready()
        self.command("apputils:change-theme", theme=theme)
        return self

    def until(self, condition: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
        """Return the first true value of a condition, looked for ten times a second, as the page goes on."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"not within {seconds} s: {self.errors() or self.live()}"
            self.page.wait_for_timeout(100)
        return value

    def ready(self) -> None:
        """Wait until the notebook is drawn and its kernel has answered."""
        self.page.wait_for_function(
            "() => window.jupyterapp && window.jupyterapp.shell.currentWidget", timeout=PATIENCE_SECONDS * 1000
        )
        self.page.wait_for_function(
            """() => {
                const panel = window.jupyterapp.shell.currentWidget;
                const session = panel && panel.sessionContext && panel.sessionContext.session;
                const states = ['idle', 'busy'];
                if (!session || !session.kernel || !panel.content.widgets.length) return false;
                return states.includes(session.kernel.status);
            }""",
            timeout=PATIENCE_SECONDS * 1000,
        )

    def command(self, name: str, **arguments: object) -> None:
        """Execute a command of JupyterLab without waiting for its end."""
        script = "([name, given]) => { window.jupyterapp.commands.execute(name, given); }"
        self.page.evaluate(script, [name, arguments])

    def restart_and_run_all(self) -> None:
        """Choose it and confirm, as a person does."""
        self.command("notebook:restart-run-all")
        self.page.locator(".jp-Dialog .jp-mod-accept").click(timeout=PATIENCE_SECONDS * 1000)
        self.until(lambda: any(cell["state"] == "running" for cell in self.code()))

    def cells(self) -> list[dict[str, Any]]:
        """Return the cells as the page has them; fail when the page does not answer."""
        began = time.monotonic()
        cells: list[dict[str, Any]] = self.page.evaluate(_CELLS) or []
        assert time.monotonic() - began < FROZEN_SECONDS, "the page is frozen"
        return cells

    def code(self) -> list[dict[str, Any]]:
        """Return the cells of code that are not empty."""
        return [cell for cell in self.cells() if cell["kind"] == "code" and cell["source"].strip()]

    def done(self) -> bool:
        """Return whether no cell runs or waits, and one has run."""
        cells = self.code()
        return all(cell["state"] in ("idle", "") for cell in cells) and any(cell["count"] for cell in cells)

    def errors(self) -> list[str]:
        """Return what went wrong in cells, a line each."""
        outputs = [output for cell in self.code() for output in cell["outputs"]]
        return [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]

    def live(self) -> dict[str, str]:
        """Return phase and text of the newest frame of a live view; empty while there is none."""
        frames = [
            "".join(output["data"]["text/html"])
            for cell in self.code()
            for output in cell["outputs"]
            if "wslab-live" in "".join(output.get("data", {}).get("text/html", ""))
        ]
        if not frames:
            return {}
        return {"phase": phase_of(frames[-1]), "html": frames[-1]}

    def keep_frames(self) -> None:
        """Keep all frames of live views from now on."""
        self.page.evaluate(_KEEP_FRAMES)

    def frames(self) -> list[str]:
        """Return the frames that were kept."""
        kept: list[str] = self.page.evaluate("() => window.liveFrames")
        return kept

    def scroll_to(self, start: str) -> None:
        """Bring the cell whose source starts so, and its output, into view."""
        number = next(i for i, cell in enumerate(self.cells()) if cell["source"].startswith(start))
        script = "async n => { await window.jupyterapp.shell.currentWidget.content.scrollToItem(n, 'start'); }"
        self.page.evaluate(script, number)
        self.page.evaluate(_DRAWN)

    def show_live(self) -> None:
        """Bring the live view into view."""
        self.page.locator(".wslab-live").last.evaluate("view => view.scrollIntoView({block: 'center'})")
        self.page.evaluate(_DRAWN)

    def shoot(self, name: str) -> Path:
        """Keep a picture of the page."""
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=str(path))
        return path


def phase_of(frame: str) -> str:
    """Return the phase that a frame of the live view shows."""
    return frame.partition('data-phase="')[2].partition('"')[0]
