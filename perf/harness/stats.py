"""Small numbers from many: medians, spread, slope."""

import statistics


def summary(values):
    """Median, least and greatest of the repeated runs."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def slope(points):
    """Least-squares slope and intercept of (x, y) points."""
    line = statistics.linear_regression([x for x, _ in points], [y for _, y in points])
    return line.slope, line.intercept


def ratio_to_best(samples, competitors):
    """How each row compares with the best competitor of the same run.

    `samples` maps a row to its values, one for each round. The best is the competitor with the least
    median; "median" is the quotient of the medians, "min" and "max" the extremes of the quotients
    taken round by round, where both were measured seconds apart.
    """
    medians = {name: statistics.median(values) for name, values in samples.items()}
    present = [name for name in competitors if name in medians]
    if not present:
        return {}
    best = min(present, key=medians.get)
    ratios = {}
    for name, values in samples.items():
        by_round = [mine / other for mine, other in zip(values, samples[best])]
        ratios[name] = {
            "median": medians[name] / medians[best],
            "min": min(by_round),
            "max": max(by_round),
        }
    return ratios


def spread(cell, digits=2):
    """`median (least-greatest)` for a table cell."""
    return (
        f"{cell['median']:,.{digits}f} ({cell['min']:,.{digits}f}-{cell['max']:,.{digits}f})"
    )
