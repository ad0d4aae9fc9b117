"""Takes the picture of the lab at work that README shows, from a real run in JupyterLab; `make screenshot`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright

from browser.conftest import BROWSERS
from browser.lab import PATIENCE_SECONDS, ROOT, Lab, Page, phase_of

PICTURE = ROOT / "data" / "reference" / "lab.png"
RUN = {"connections": 20_000, "ramp_rate": 5000, "hold_seconds": 60.0, "message_rate": 0.2}
# The view is most telling when it has shown so many seconds of the hold.
FRAMES = 5


def main() -> None:
    """Run a stage, take the picture while it holds, and stop it."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        sys.exit("Chromium is not installed: apt install chromium")
    with TemporaryDirectory() as folder, sync_playwright() as playwright, Lab(Path(folder)).running() as lab:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1100, "height": 640})
        context.set_default_timeout(PATIENCE_SECONDS * 1000)
        page = Page(context.new_page(), lab).open(lab.with_parameters("10-stage.ipynb", "10-stage.ipynb", **RUN))
        page.command("application:toggle-left-area")
        page.keep_frames()
        page.restart_and_run_all()
        page.until(lambda: sum(phase_of(frame) == "hold" for frame in page.frames()) >= FRAMES)
        page.scroll_to("run = wslab")
        page.show_live()
        page.page.screenshot(path=str(PICTURE))
        page.command("notebook:interrupt-kernel")
        page.until(page.done)
        lab.end_kernels()
        page.until(lambda: not lab.processes())
        browser.close()
    print(PICTURE)


if __name__ == "__main__":
    main()
