"""One frame of the live view of a notebook: HTML with a bar, the facts, and one small chart as SVG.

1. It is a string: no figure is opened, nothing is loaded, and no script runs.
2. Text takes the colours of the page, so that it is legible in a light and in a dark theme.
3. The note that a frame was not replaced is hidden at first and appears by an animation of the style sheet alone, so
   it needs neither the kernel nor a script.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from wslab.core.quantities import format_count
from wslab.lab.tables import OUTCOME_COLOURS
from wslab.view.progress import PHASES, Progress

SILENT_SECONDS = 10
LIVE_CLASS = "wslab-live"  # of the outermost element of a frame
CHART_WIDTH, CHART_HEIGHT = 520, 96
_COLOUR = "#0072b2"
_LEFT, _TOP, _BOTTOM = 44, 8, 18  # room for the labels of the axes
# A chart begins at so many seconds, so that it does not change its scale all the time.
_SECONDS_MIN = 10.0
_LABEL = 'font-size="11" fill="currentColor" fill-opacity="0.8"'


def frame_html(progress: Progress, prefix: str = "") -> str:
    """Return one frame."""
    run_id = Path(progress.run_dir).name
    where = f"<code>{escape(run_id)}</code>" if run_id else ""
    heading = f'<b>{escape(prefix + progress.heading)}</b><span style="opacity:.75;margin-left:2em">{where}</span>'
    parts = [f"<div>{heading}</div>", _bar(progress), _facts(progress), chart_svg(progress), _foot(progress, run_id)]
    style = "line-height:1.5;font-variant-numeric:tabular-nums;max-width:62em"
    return f'<div class="{LIVE_CLASS}" data-phase="{escape(progress.phase)}" style="{style}">{"".join(parts)}</div>'


def _bar(progress: Progress) -> str:
    colour = OUTCOME_COLOURS.get(progress.phase, _COLOUR)
    return (
        '<div style="background:rgba(127,127,127,.25);border-radius:3px;height:8px;margin:4px 0">'
        f'<div style="background:{colour};border-radius:3px;height:8px;width:{100 * progress.phase_share:.1f}%">'
        "</div></div>"
    )


def _facts(progress: Progress) -> str:
    """Return the facts; of a run that has ended those that stay, since its own display follows."""
    facts = progress.facts()[:2] if progress.ended else progress.facts()
    items = "".join(
        f'<div><span style="opacity:.75">{escape(name)}</span> <b>{escape(text)}</b></div>' for name, text in facts
    )
    grid = "display:grid;grid-template-columns:repeat(auto-fill,minmax(24em,1fr));gap:0 .5em;margin:4px 0"
    return f'<div style="{grid}">{items}</div>'


def chart_svg(progress: Progress) -> str:
    """Return connections open over time, with the begin of each phase; empty text while there is nothing to show."""
    if len(progress.history) < 2:
        return ""
    end = max(_SECONDS_MIN, progress.history[-1][0])
    top = max(progress.target, max(count for _, count in progress.history), 1)
    wide, high = CHART_WIDTH - _LEFT - 8, CHART_HEIGHT - _TOP - _BOTTOM

    def x(seconds: float) -> float:
        return _LEFT + wide * seconds / end

    def y(count: float) -> float:
        return _TOP + high * (1 - count / top)

    points = " ".join(f"{x(at):.1f},{y(count):.1f}" for at, count in progress.history)
    axis = 'stroke="currentColor" stroke-opacity="0.35" stroke-width="1"'
    lines = [
        f'<line x1="{_LEFT}" y1="{y(0):.1f}" x2="{_LEFT + wide}" y2="{y(0):.1f}" {axis}/>',
        f'<line x1="{_LEFT}" y1="{y(top):.1f}" x2="{_LEFT + wide}" y2="{y(top):.1f}" {axis} stroke-dasharray="2 3"/>',
        f'<text x="{_LEFT - 6}" y="{y(top) + 4:.1f}" text-anchor="end" {_LABEL}>{escape(format_count(top))}</text>',
        f'<text x="{_LEFT - 6}" y="{y(0) + 4:.1f}" text-anchor="end" {_LABEL}>0</text>',
        f'<text x="{_LEFT + wide}" y="{CHART_HEIGHT - 4}" text-anchor="end" {_LABEL}>{end:.0f} s</text>',
    ]
    free = float("-inf")  # Where the last label ended: labels of short phases would lie on one another.
    for at, name in progress.phases:
        if name not in PHASES:
            continue
        lines.append(f'<line x1="{x(at):.1f}" y1="{_TOP}" x2="{x(at):.1f}" y2="{y(0):.1f}" {axis}/>')
        if x(at) >= free and x(at) < _LEFT + wide - 70:
            lines.append(f'<text x="{x(at) + 2:.1f}" y="{CHART_HEIGHT - 4}" {_LABEL}>{name}</text>')
            free = x(at) + 6 + 7 * len(name)
    return (
        f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" width="{CHART_WIDTH}" height="{CHART_HEIGHT}" '
        'style="max-width:100%;display:block;color:inherit" role="img" aria-label="connections open over time">'
        f'{"".join(lines)}<polyline points="{points}" fill="none" stroke="{_COLOUR}" stroke-width="2"/></svg>'
    )


def _foot(progress: Progress, run_id: str) -> str:
    """Return how to stop the run, where it is recorded, and what to think of a frame that stands still."""
    folder = f"Recorded in <code>{escape(progress.run_dir)}</code>" if progress.run_dir else ""
    quiet = 'style="opacity:.75;font-size:90%"'
    if progress.ended:
        return f"<div {quiet}>{folder}</div>"
    how = "interrupt this cell (■), or" if not progress.watched else "an interrupt ends the watching only;"
    stop = f"To stop the run: {how} <code>wslab stop</code> in a terminal." if run_id else ""
    shown = f"wslab.load_run({run_id!r})" if run_id else "wslab.load_run('latest')"
    silence = (
        "<style>@keyframes wslab-silent{from{visibility:hidden}to{visibility:visible}}</style>"
        f'<div class="wslab-silent" style="visibility:hidden;animation:wslab-silent 0s {SILENT_SECONDS}s forwards">'
        f"<b>No news for {SILENT_SECONDS} s.</b> If the page was reloaded, <code>wslab.attach()</code> goes on showing "
        "the run; if the kernel has died, the run was stopped with it, and "
        f"<code>{escape(shown)}</code> shows what was recorded.</div>"
    )
    return f"<div {quiet}>{stop} {folder}</div>{silence}"
