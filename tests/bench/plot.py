# SPDX-License-Identifier: Apache-2.0
"""One SVG: for each measure the ratio of ferry's time to the peer's as a bar, the target as a line across it."""
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, ROW, BAR, TOP = 860, 260, 200, 34, 16, 56
SCALE_MAX = 1.25


def text(x, y, words, anchor="start", size=13, colour="#222"):
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(words)}</text>'


def x_of(ratio):
    return LEFT + min(ratio, SCALE_MAX) / SCALE_MAX * (WIDTH - LEFT - RIGHT)


def row_of(y, row):
    middle, ok = y + BAR / 2 + 4, row["ratio"] <= row["target"]
    colour = "#2a7f62" if ok else "#c0392b"
    goal = x_of(row["target"])
    return [text(LEFT - 10, middle, row["name"], "end"),
            f'<rect x="{LEFT}" y="{y}" width="{x_of(row["ratio"]) - LEFT:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<line x1="{goal:.1f}" x2="{goal:.1f}" y1="{y - 5}" y2="{y + BAR + 5}" stroke="#222" stroke-width="2"/>',
            text(WIDTH - RIGHT + 10, middle, f'{row["ferry"]:.4g} / {row["peer"]:.4g} {row["unit"]}  = {row["ratio"]:.3f}')]


def draw(rows, title):
    """rows: dicts with name, unit, ferry, peer, ratio, target."""
    height = TOP + ROW * len(rows) + 40
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif">',
             f'<rect width="{WIDTH}" height="{height}" fill="white"/>', text(20, 26, title, size=16),
             text(LEFT, TOP - 10, "time of ferry / time of the peer; the line is the target", size=11, colour="#666")]
    for ratio in (0, 0.25, 0.5, 0.75, 1):
        x = x_of(ratio)
        parts += [f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - 30}" stroke="#ddd"/>',
                  text(x, height - 14, f"{ratio:g}", "middle", 11, "#666")]
    for i, row in enumerate(rows):
        parts += row_of(TOP + 8 + ROW * i, row)
    return "\n".join([*parts, "</svg>"]) + "\n"
