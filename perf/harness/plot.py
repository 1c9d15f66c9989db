"""Grouped bars with a min-max whisker, as an SVG written by hand."""

from html import escape

COLOURS = {
    "floor": "#9aa0a6",
    "nginx": "#3c8d5a",
    "haproxy": "#3b6fb5",
    "envoy": "#a0479a",
    "moorgate": "#d9641e",
    "direct": "#c9ccd1",
}
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 860, 400, 70, 56, 60


def bars(title, unit, groups, series):
    """`groups`: labels on the axis. `series`: name -> one {median, min, max} per group."""
    top = max(cell["max"] for cells in series.values() for cell in cells) * 1.08 or 1
    plot_height = HEIGHT - TOP - BOTTOM
    step = (WIDTH - LEFT - 20) / len(groups)
    bar = step * 0.8 / len(series)

    def y(value):
        return TOP + plot_height * (1 - value / top)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="15">{escape(title)}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 8}" fill="#666">{escape(unit)}; bar: median, '
        f"line: least to greatest</text>",
    ]
    for tick in range(5):
        value = top * tick / 4
        out.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
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
            x = LEFT + step * column + step * 0.1 + bar * row
            middle = x + bar / 2
            out.append(
                f'<rect x="{x:.1f}" y="{y(cell["median"]):.1f}" width="{bar * 0.92:.1f}" '
                f'height="{y(0) - y(cell["median"]):.1f}" fill="{colour}"/>'
                f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{y(cell["min"]):.1f}" '
                f'y2="{y(cell["max"]):.1f}" stroke="#222"/>'
            )
    for column, label in enumerate(groups):
        out.append(
            f'<text x="{LEFT + step * (column + 0.5):.1f}" y="{HEIGHT - BOTTOM + 18}" '
            f'text-anchor="middle">{escape(label)}</text>'
        )
    return "\n".join(out + ["</svg>"]) + "\n"
