#!/usr/bin/env python3
"""Trains every model of the zoo, measures it beside naive forecasts and writes the bundles.

    python train.py [--data FOLDER] [--out FOLDER] [--replay FOLDER]

Writes `<out>/<name>/<version>/{model.onnx,golden.json,manifest.json}`, the replay files and the table of results in
`<out>/README.md`. The same seed, packages and kind of processor give the same bytes; one thread is used.
"""

import argparse
import os

# Set before numpy loads its BLAS: sums over threads would depend on the number of cores.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

import bundle
from features import HOUR_MS, matrix, window_ends
from network import Recipe, train
from sources import AIR_ZONE, I94_ZONE, Series, offset, read_air, read_i94, write_replay

ZOO = Path(__file__).resolve().parent
WINDOW = 24
SEED = 1
SPREAD_SEEDS = (1, 2, 3, 4, 5)
LEVELS = ["free", "light", "heavy", "jam"]

I94_CITATION = (
    "J. Hogue, Metro Interstate Traffic Volume, UCI Machine Learning Repository, 2019, "
    "doi:10.24432/C5X60B, CC BY 4.0; cleaned to one reading an hour"
)
AIR_CITATION = (
    "S. Chen, Beijing PM2.5, UCI Machine Learning Repository, 2015, "
    "doi:10.24432/C5JS49, CC BY 4.0; windows with missing PM2.5 left out"
)


@dataclass
class Task:
    """Windows of a series, the value one hour after each, and what naive forecasts say of that value."""

    series: Series
    target: str
    ends: np.ndarray = field(init=False)

    def __post_init__(self):
        self.ends = window_ends(self.series, WINDOW, 1, [self.target])
        values = self.series.columns[self.target]
        self.truth = values[self.ends + 1]
        self.years = self.series.years[self.ends + 1]
        self.persistence = values[self.ends]
        by_hour = dict(zip(self.series.hours.tolist(), values.tolist()))
        week_ago = (self.series.hours[self.ends + 1] - 7 * 24).tolist()
        self.last_week = np.array([by_hour.get(hour, float("nan")) for hour in week_ago])

    def span(self, first: int, last: int) -> np.ndarray:
        """Windows whose target falls in the years from `first` to `last`."""
        return (self.years >= first) & (self.years <= last)

    def comparable(self, first: int, last: int) -> np.ndarray:
        """The windows of `span` for which every forecast of the table exists."""
        return self.span(first, last) & ~np.isnan(self.last_week)

    def scale(self, field_name: str, chosen: np.ndarray, digits: int = 1) -> dict:
        """Mean and deviation of a field over the chosen windows' newest readings, rounded to read well."""
        values = self.series.columns[field_name][self.ends[chosen]]
        return {"mean": round(float(values.mean()), digits), "std": round(float(values.std()), digits)}


def errors(forecast: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Mean absolute error and root mean squared error."""
    difference = forecast - truth
    return float(np.abs(difference).mean()), float(np.sqrt((difference**2).mean()))


def lags(task: Task, chosen: np.ndarray) -> dict:
    """The whole window of the target's field, oldest first."""
    return {
        "op": "lag",
        "field": task.target,
        "lags": list(range(WINDOW - 1, -1, -1)),
        **task.scale(task.target, chosen),
    }


def traffic_ops(task: Task, chosen: np.ndarray) -> list[dict]:
    parts = ["hour_sin", "hour_cos", "weekday_one_hot", "month_sin", "month_cos"]
    return [lags(task, chosen), {"op": "calendar", "parts": parts, "zone": I94_ZONE, "ahead_ms": HOUR_MS}]


def air_ops(task: Task, chosen: np.ndarray) -> list[dict]:
    parts = ["hour_sin", "hour_cos", "month_sin", "month_cos"]
    weather = [
        {"op": "select", "field": name, "last": 1, **task.scale(name, chosen)}
        for name in ("dewp", "temp", "pres", "iws")
    ]
    wind = {"op": "one_hot", "field": "wind", "categories": ["NW", "NE", "SE", "cv"]}
    calendar = {"op": "calendar", "parts": parts, "zone": AIR_ZONE, "ahead_ms": HOUR_MS}
    return [lags(task, chosen), *weather, wind, calendar]


def forecaster(task: Task, ops: list[dict], chosen: np.ndarray, recipe: Recipe, skip: int | None = None):
    """Trains on the chosen windows; returns the network and its forecasts for all windows, in the target's unit."""
    x = matrix(task.series, task.ends, ops)
    mean, std = ops[0]["mean"], ops[0]["std"]
    y = ((task.truth - mean) / std).astype(np.float32)[:, None]
    net = train(x[chosen], y[chosen], recipe, 1, skip)
    return net, net(x)[:, 0] * std + mean


def spread_of_examples(chosen: np.ndarray) -> np.ndarray:
    """Eight windows spread evenly over the chosen ones, for the golden vectors."""
    rows = np.flatnonzero(chosen)
    return rows[np.linspace(0, len(rows) - 1, 8).astype(int)]


class Results:
    """The lines of the README's table."""

    def __init__(self):
        self.lines = [
            "| model | trained on | tested on | windows | model | same hour last week | persistence | model.onnx |",
            "|---|---|---|---|---|---|---|---|",
        ]

    def add(self, name: str, trained: str, tested: str, windows: int, cells: list[str], size: int) -> None:
        row = [name, trained, tested, f"{windows:,}", *cells, f"{size:,} B"]
        self.lines.append("| " + " | ".join(row) + " |")


def write_forecaster(out, results, task, version, spans, recipe, about, skip=None):
    """Trains, measures and writes one forecasting bundle."""
    (train_years, trained), (test_years, tested) = spans
    chosen, test = task.span(*train_years), task.comparable(*test_years)
    ops = about["ops"](task, chosen)
    net, forecast = forecaster(task, ops, chosen, recipe, skip)
    measured = [errors(f[test], task.truth[test]) for f in (forecast, task.last_week, task.persistence)]
    digits = about["digits"]
    names = ("", "_last_week", "_persistence")
    metrics = {
        f"{kind}{name}": round(pair[i], digits)
        for name, pair in zip(names, measured)
        for i, kind in enumerate(("mae", "rmse"))
    }
    size = bundle.write(
        out,
        bundle.Draft(
            name=about["name"],
            version=version,
            task="forecasting",
            summary=f"{about['summary']}; trained on {trained}",
            ops=ops,
            window=WINDOW,
            output_tensor="forecast",
            outputs=1,
            kind={
                "value": {
                    "unit": about["unit"],
                    "scale": ops[0]["std"],
                    "offset": ops[0]["mean"],
                    "horizon_ms": HOUR_MS,
                }
            },
            data=about["data"],
            metrics={**metrics, "test_windows": int(test.sum()), "train_windows": int(chosen.sum())},
        ),
        net,
        task.series,
        task.ends[spread_of_examples(test)],
        about["fields"],
    )
    cells = [f"MAE {mae:.{digits}f}, RMSE {rmse:.{digits}f}" for mae, rmse in measured]
    results.add(
        f"{about['name']} {version} ({about['unit']})",
        f"{trained}: {chosen.sum():,} windows",
        tested,
        int(test.sum()),
        cells,
        size,
    )


def write_levels(out, results, task, version, spans, recipe):
    """Trains, measures and writes the congestion classes: quartiles of the volumes in the training years."""
    (train_years, trained), (test_years, tested) = spans
    chosen, test = task.span(*train_years), task.comparable(*test_years)
    years = task.series.years
    early = task.series.columns["volume"][(years >= train_years[0]) & (years <= train_years[1])]
    bounds = [round(float(q)) for q in np.quantile(early, [0.25, 0.5, 0.75])]

    def classes(volume):
        return np.searchsorted(bounds, volume, side="right")

    ops = traffic_ops(task, chosen)
    x, truth = matrix(task.series, task.ends, ops), classes(task.truth)
    net = train(x[chosen], truth[chosen], recipe, len(LEVELS))
    guesses = [np.argmax(net(x), axis=1), classes(task.last_week), classes(task.persistence)]
    accuracy = [float((guess[test] == truth[test]).mean()) for guess in guesses]
    size = bundle.write(
        out,
        bundle.Draft(
            name="traffic-level",
            version=version,
            task="classification",
            summary=f"Congestion class of the next hour on I-94 west: free below {bounds[0]}, light below {bounds[1]}, "
            f"heavy below {bounds[2]} vehicles/h, else jam (quartiles of {trained}); trained on {trained}",
            ops=ops,
            window=WINDOW,
            output_tensor="scores",
            outputs=len(LEVELS),
            kind={"labels": {"names": LEVELS, "activation": "softmax"}},
            data=I94_CITATION,
            metrics={
                **{f"accuracy{n}": round(a, 4) for n, a in zip(("", "_last_week", "_persistence"), accuracy)},
                "test_windows": int(test.sum()),
                "train_windows": int(chosen.sum()),
            },
        ),
        net,
        task.series,
        task.ends[spread_of_examples(test)],
        ["volume"],
    )
    cells = [f"accuracy {a:.3f}" for a in accuracy]
    results.add(
        f"traffic-level {version}", f"{trained}: {chosen.sum():,} windows", tested, int(test.sum()), cells, size
    )


def seed_spread(task: Task, older, newer, test: np.ndarray, recipe: Recipe) -> str:
    """Says whether the newer version is better whatever the seed."""
    rows = []
    for seed in SPREAD_SEEDS:
        again = Recipe(recipe.hidden, recipe.steps, recipe.rate, recipe.loss, seed)
        pair = []
        for years in (older, newer):
            chosen = task.span(*years)
            forecast = forecaster(task, traffic_ops(task, chosen), chosen, again)[1]
            pair.append(errors(forecast[test], task.truth[test])[0])
        rows.append(pair)
    old, new = np.array(rows).T
    return (
        f"With seeds {SPREAD_SEEDS[0]} to {SPREAD_SEEDS[-1]} the MAE of traffic-flow 1.0.0 is "
        f"{old.min():.1f} to {old.max():.1f} and that of 1.1.0 is {new.min():.1f} to {new.max():.1f}; 1.1.0 is lower by "
        f"{(1 - new / old).min():.1%} to {(1 - new / old).max():.1%}, seed by seed."
    )


def write_readme(path: Path, lines: list[str]) -> None:
    """Replaces what stands between the README's two markers."""
    begin, end = "<!-- results: written by train.py -->", "<!-- end of results -->"
    text = path.read_text(encoding="utf-8")
    head, rest = text.split(begin)
    path.write_text(f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{rest.split(end)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the models of the zoo and write their bundles.")
    parser.add_argument(
        "--data", type=Path, default=ZOO / "data", help="folder with the two source files (default: data)"
    )
    parser.add_argument(
        "--out", type=Path, default=ZOO, help="folder for the bundles and README.md (default: this one)"
    )
    parser.add_argument(
        "--replay", type=Path, default=ZOO.parents[1] / "tests" / "data", help="folder for the replay files"
    )
    args = parser.parse_args()

    results = Results()
    traffic = Task(read_i94(args.data), "volume")
    air = Task(read_air(args.data), "pm25")

    # Steps and rate were chosen by the error of the 2012-2013 model on 2014, and of the air model on 2013.
    flow = Recipe(hidden=(64, 32), steps=12_000, rate=3e-3, loss="huber", seed=SEED)
    early, late = ((2012, 2013), "2012-10 to 2013-12"), ((2012, 2016), "2012-10 to 2016-12")
    replayed = ((2017, 2018), "2017-01 to 2018-09")
    about = {
        "name": "traffic-flow",
        "summary": "Westbound volume on I-94 in the next hour, from the last 24 hours and the calendar",
        "unit": "vehicles/h",
        "fields": ["volume"],
        "digits": 1,
        "data": I94_CITATION,
        "ops": traffic_ops,
    }
    write_forecaster(args.out, results, traffic, "1.0.0", (early, replayed), flow, about)
    write_forecaster(args.out, results, traffic, "1.1.0", (late, replayed), flow, about)

    level = Recipe(hidden=(32,), steps=4_000, rate=3e-3, loss="cross_entropy", seed=SEED)
    write_levels(args.out, results, traffic, "1.0.0", (early, replayed), level)

    pm25 = Recipe(hidden=(64, 32), steps=4_000, rate=3e-3, loss="huber", seed=SEED)
    about = {
        "name": "air-quality",
        "summary": "PM2.5 in Beijing in the next hour, from the last 24 hours, the weather and the calendar",
        "unit": "ug/m3",
        "fields": ["pm25", "dewp", "temp", "pres", "wind", "iws"],
        "digits": 2,
        "data": AIR_CITATION,
        "ops": air_ops,
    }
    spans = ((2010, 2012), "2010 to 2012"), ((2014, 2014), "2014")
    write_forecaster(args.out, results, air, "1.0.0", spans, pm25, about, skip=WINDOW - 1)

    spread = seed_spread(traffic, early[0], late[0], traffic.comparable(*replayed[0]), flow)
    print("\n".join([*results.lines, "", spread]))
    write_readme(args.out / "README.md", [*results.lines, "", spread])

    # A week before the test period, for the forecast "same hour last week".
    i94 = traffic.series.after(datetime(2016, 12, 25, tzinfo=offset(I94_ZONE)))
    write_replay(i94, ["volume", "temp"], args.replay / "i94-replay.csv")
    beijing = air.series.after(datetime(2013, 12, 25, tzinfo=offset(AIR_ZONE)))
    write_replay(beijing, about["fields"], args.replay / "air-replay.csv")


if __name__ == "__main__":
    main()
