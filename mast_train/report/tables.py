"""Tables and numbers in HTML and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape, unescape

from mast_train.report.statistics import Interval


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """An HTML table; cells are HTML already, the first of a row its header. A cell that is a whole <td> stays one."""
    top = "".join(f'<th scope="col">{text}</th>' for text in head)
    rows = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(text if text.startswith("<td") else f"<td>{text}</td>" for text in row[1:])
        + "</tr>"
        for row in body
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'


def cell(text: str, share: float, tip: str) -> str:
    """A <td> shaded by a share of 1."""
    return f'<td class="shade" style="--share:{share:.2f}" title="{escape(tip)}">{text}</td>'


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(unescape(text).replace("|", "\\|") for text in line) + " |" for line in lines)


def percent(value: float | None) -> str:
    """0.946 -> "94.6 %"."""
    return "–" if value is None else f"{value:.1%}".replace("%", " %")


def interval_words(interval: Interval | None) -> str:
    """ "0.95 [0.90, 0.99]"."""
    return "–" if interval is None else f"{interval[0]:.3f} [{interval[1]:.3f}, {interval[2]:.3f}]"
