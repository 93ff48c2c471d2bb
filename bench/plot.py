"""Figures as a picture: panels of horizontal bars, each with a whisker from its lowest to its highest round. Plain SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_COLUMNS, _PANEL, _GAP = 2, 470, 30
_LABEL, _VALUE = 120, 70  # room beside the bars
_BAR, _STEP, _HEAD, _TITLE = 13, 19, 30, 60
_OURS, _OTHERS, _INK = "#c8102e", "#9aa5b1", "#1f2933"


@dataclass(frozen=True)
class Bar:
    """ours: it stands out."""

    label: str
    median: float
    lowest: float
    highest: float
    ours: bool = False


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    bars: Sequence[Bar]

    @property
    def height(self) -> int:
        return _HEAD + _STEP * len(self.bars) + _GAP


def svg(title: str, below: str, panels: Sequence[Panel]) -> str:
    """A page of panels in two columns. below: a line under the title."""
    rows = [panels[start : start + _COLUMNS] for start in range(0, len(panels), _COLUMNS)]
    parts, y = [_text(_GAP, 28, title, size=18, bold=True), _text(_GAP, 47, below, size=11)], _TITLE
    for row in rows:
        for column, panel in enumerate(row):
            parts += _panel(panel, _GAP + column * (_PANEL + _GAP), y)
        y += max(panel.height for panel in row)
    width = _GAP + _COLUMNS * (_PANEL + _GAP)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" font-family="sans-serif" fill="{_INK}">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{y}" fill="#ffffff"/>', *parts, "</svg>", ""])


def _panel(panel: Panel, x: int, y: int) -> list[str]:
    longest = max(bar.highest for bar in panel.bars) or 1.0
    scale = (_PANEL - _LABEL - _VALUE) / longest
    parts = [
        _text(x, y + 16, panel.title, size=13, bold=True),
        _text(x + _PANEL, y + 16, panel.unit, size=11, end=True),
    ]
    for number, bar in enumerate(panel.bars):
        top, left = y + _HEAD + _STEP * number, x + _LABEL
        middle, colour = top + _BAR / 2, _OURS if bar.ours else _OTHERS
        lowest, highest = left + bar.lowest * scale, left + bar.highest * scale
        parts += [
            _text(left - 6, top + 11, bar.label, size=11, end=True),
            f'<rect x="{left}" y="{top}" width="{bar.median * scale:.1f}" height="{_BAR}" fill="{colour}"/>',
            f'<path d="M{lowest:.1f} {middle}H{highest:.1f}" stroke="{_INK}" stroke-width="1.5"/>',
            _text(
                round(highest) + 6,
                top + 11,
                f"{bar.median:.3g}" if bar.median < 1000 else f"{bar.median:,.0f}",
                size=11,
            ),
        ]
    return parts


def _text(x: int, y: int, text: str, *, size: int, bold: bool = False, end: bool = False) -> str:
    style = (' font-weight="bold"' if bold else "") + (' text-anchor="end"' if end else "")
    return f'<text x="{x}" y="{y}" font-size="{size}"{style}>{escape(text)}</text>'
