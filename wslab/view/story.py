"""What a run met, told in sentences: for the reader of a notebook who does not know the limits yet."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from wslab.core.ceilings import walls
from wslab.core.evidence import plan_of
from wslab.core.host import Host
from wslab.core.records import ABORTED, BROKE, CRASHED, HELD
from wslab.lab.runs import Run
from wslab.lab.tables import bytes_text, count_text, whole_text

# Who was at its limit in a phase, in words.
LIMITED_BY = {
    "generator": "the swarm, which says nothing about the server",
    "server": "the server",
    "machine": "the machine: no CPU was left for either end",
}
# Limits that more processes or source addresses raise, of which the plan takes as many as a stage needs.
LAYOUT = ("fd_limit", "ephemeral_ports", "bind_ports")


@dataclass(frozen=True, slots=True)
class Story:
    """Sentences about a run, in paragraphs."""

    paragraphs: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join(self.paragraphs)

    def _repr_html_(self) -> str:
        text = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in self.paragraphs)
        return f'<div style="max-width:48em;line-height:1.5">{text}</div>'


def story(run: Run, lifted: Run | None = None) -> Story:
    """Tell what a run met: how it ended, which walls it passed and how, what it cost, and which limit comes next.

    Args:
        run: a recorded run.
        lifted: what `run_lifted` returned for it: then the story is that of the second run, or why there was none.
    """
    if lifted is None:
        told = [_end(run), _walls(run), _cost(run), _next(run)]
    elif lifted.run_id == run.run_id:
        told = [_not_again(run)]
    else:
        reached = whole_text(lifted.summary.get("connections_open"))
        told = [f"With {run.broken_limits} lifted by the layout, the same load {_ended(lifted)} at {reached}."]
        told += [_end(lifted)]
    return Story(tuple(filter(None, told)))


def _ended(run: Run) -> str:
    return {HELD: "held", BROKE: "broke again", ABORTED: "was stopped"}.get(run.outcome, f"ended as {run.outcome}")


def _end(run: Run) -> str:
    asked, summary = whole_text(run.connections), run.summary
    opened = whole_text(summary.get("connections_open"))
    if run.outcome == HELD:
        proof = "its own echo" if summary.get("proof", "echo") == "echo" else "a pong of its own"
        return (
            f"{asked} connections were asked for. All of them were opened in {run.figure('ramp_seconds')}, "
            f"{run.figure('connections_per_second')}; they stayed, and each returned {proof}."
        )
    if run.outcome == BROKE:
        first = run.breaks[0] if run.breaks else {}
        side = f" on the side of the {first.get('side')}" if first.get("side") else ""
        met = f" What bound first is {first.get('limit')}{side}: {first.get('evidence')}." if first else ""
        return f"{asked} connections were asked for, and {opened} were open at the end.{met}"
    what = {ABORTED: "stopped before its end", CRASHED: "cut short by an accident"}.get(run.outcome, run.outcome)
    return f"{asked} connections were asked for; the run was {what}: {run.reason or 'no reason was recorded'}."


def _walls(run: Run) -> str:
    """Tell the walls that the run passed or met, the nearest first."""
    found = walls(Host.from_record(run.limits), plan_of(run.manifest), run.summary, run.breaks)
    sentences = []
    for wall in found:
        if wall.here is None or not wall.told.startswith(("passed", "met")):
            continue
        here = count_text(wall.here)
        sentences.append(f"A plain set-up ends at {here} here, for {wall.title}; this run {wall.told}.")
    if not sentences:
        nearest = min((wall for wall in found if wall.here), key=lambda wall: wall.here or 0, default=None)
        if nearest is None:
            return ""
        return f"No wall of a plain set-up is so near: the first are {nearest.title}, at {count_text(nearest.here)}."
    return " ".join(sentences)


def _cost(run: Run) -> str:
    summary, parts = run.summary, []
    each, kernel = summary.get("total_bytes_per_connection"), summary.get("kernel_bytes_per_connection")
    if each and kernel:
        ends = bytes_text(max(0.0, each - kernel))
        parts.append(
            f"A connection took {bytes_text(each)}, of which {bytes_text(kernel)} belong to the kernel and no process "
            f"shows them; both ends together took {ends}."
        )
    for phase, words in (("ramp", "opened"), ("hold", "answered messages")):
        who = LIMITED_BY.get(str(summary.get(f"{phase}_limited_by")))
        parts += [f"How fast it {words} was the limit of {who}."] if who else []
    if run.disturbed_by:
        parts.append(f"It was disturbed, so not all of that is the server's: {run.disturbed_by}.")
    return " ".join(parts)


def _next(run: Run) -> str:
    """Tell which limit would end a larger climb; what the plan itself raises with the connections is none."""
    reached = int(run.summary.get("connections_open") or 0)
    rows = [
        (int(row["ceiling_connections"]), row)
        for row in run.preflight
        if row.get("binding") and int(row.get("ceiling_connections") or 0) > reached
        if row.get("limit") not in LAYOUT
    ]
    if not rows or run.outcome != HELD:
        return ""
    ceiling, row = min(rows, key=lambda pair: pair[0])
    return f"The limit that ends a larger climb here is {row['limit']}, at {count_text(ceiling)}: {row['lift']}."


def _not_again(run: Run) -> str:
    if run.outcome == HELD:
        return "Nothing to lift: the stage held, so it was not run again."
    if run.outcome != BROKE:
        return f"Not run again: the stage {_ended(run)}."
    limits = run.broken_limits or "what it broke at"
    return f"Not run again: no layout lifts {limits}; the remedy stands with the run above."
