"""Grouped bars with a min-max whisker, as an SVG written by hand."""

from html import escape

COLOURS = {
    "floor": "#9aa0a6",
    "nginx": "#3c8d5a",
    "haproxy": "#3b6fb5",
    "envoy": "#a0479a",
    "nghttpx": "#b59b3b",
    "moorgate": "#d9641e",
    "direct": "#c9ccd1",
}
HEIGHT, LEFT, TOP, BOTTOM = 416, 70, 56, 76
LEAST_WIDTH, GROUP_WIDTH = 860, 130


def bars(title, unit, groups, series):
    """`groups`: labels on the axis. `series`: name -> one {median, min, max} per group, or None
    where there is nothing to show."""
    top = max(cell["max"] for cells in series.values() for cell in cells if cell) * 1.08 or 1
    width = max(LEAST_WIDTH, LEFT + 20 + GROUP_WIDTH * len(groups))
    plot_height = HEIGHT - TOP - BOTTOM
    step = (width - LEFT - 20) / len(groups)
    bar = step * 0.8 / len(series)

    def y(value):
        return TOP + plot_height * (1 - value / top)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="15">{escape(title)}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 8}" fill="#666">{escape(unit)}; bar: median, '
        f"line: least to greatest</text>",
    ]
    for tick in range(5):
        value = top * tick / 4
        out.append(
            f'<line x1="{LEFT}" x2="{width - 20}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="#ddd"/><text x="{LEFT - 6}" y="{y(value) + 4:.1f}" '
            f'text-anchor="end" fill="#666">{value:,.4g}</text>'
        )
    for row, (name, cells) in enumerate(series.items()):
        colour = COLOURS.get(name, "#555")
        legend = LEFT + row * 120
        out.append(
            f'<rect x="{legend}" y="30" width="12" height="12" fill="{colour}"/>'
            f'<text x="{legend + 17}" y="41">{escape(name)}</text>'
        )
        for column, cell in enumerate(cells):
            if cell is None:
                continue
            x = LEFT + step * column + step * 0.1 + bar * row
            middle = x + bar / 2
            out.append(
                f'<rect x="{x:.1f}" y="{y(cell["median"]):.1f}" width="{bar * 0.92:.1f}" '
                f'height="{y(0) - y(cell["median"]):.1f}" fill="{colour}"/>'
                f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{y(cell["min"]):.1f}" '
                f'y2="{y(cell["max"]):.1f}" stroke="#222"/>'
            )
    for column, label in enumerate(groups):
        for line, part in enumerate(label.split(", ")):
            out.append(
                f'<text x="{LEFT + step * (column + 0.5):.1f}" '
                f'y="{HEIGHT - BOTTOM + 18 + 14 * line}" text-anchor="middle">{escape(part)}</text>'
            )
    return "\n".join(out + ["</svg>"]) + "\n"
