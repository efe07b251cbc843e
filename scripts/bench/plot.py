"""Draw what scale.py printed: the time of a query against the rows of an index, as SVG.

.venv/bin/python scripts/bench/scale.py | tee scale.txt
.venv/bin/python scripts/bench/plot.py scale.txt docs/images/scale.svg
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 30, 50
# Columns of scale.py: rows first, then the medians that are drawn.
LINES = {"a scan of the floats": (5, "#b35900"), "8-bit codes": (9, "#0b5cad")}
HEAD = 11


def read(file: Path) -> list[list[float]]:
    """Return the numbers of each line that is one size's."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        words = line.replace(",", "").split()
        if len(words) > HEAD and words[0].isdigit():
            rows.append([float(word) for word in words])
    return rows


def main() -> None:
    """Read, and draw on two logarithmic axes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    rows = read(given.log)
    xs = [math.log10(row[0]) for row in rows]
    values = [row[column] for row in rows for column, _ in LINES.values()]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def x(value: float) -> float:
        share = (math.log10(value) - xs[0]) / (xs[-1] - xs[0])
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        share = (math.log10(value) - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="system-ui, sans-serif" font-size="13" role="img">'
        ),
        "<title>Milliseconds of one query against the rows of the index</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for power in range(low, high + 1):
        at = y(10**power)
        parts.append(
            f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#d5d9de"/>'
            f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10**power:g} ms</text>'
        )
    parts += [
        f'<text x="{x(row[0]):.1f}" y="{HEIGHT - BOTTOM + 22}" text-anchor="middle">'
        f"{row[0]:,.0f}</text>"
        for row in rows
    ]
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">rows</text>'
    )
    for name, (column, colour) in LINES.items():
        points = [(x(row[0]), y(row[column])) for row in rows]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>' for a, b in points]
        end = points[-1]
        parts.append(
            f'<text x="{end[0] + 10:.1f}" y="{end[1] + 4:.1f}" fill="{colour}">{name}</text>'
        )
    parts.append("</svg>\n")
    given.out.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
