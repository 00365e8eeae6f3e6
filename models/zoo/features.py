"""The preprocessing of a manifest, twice.

`matrix` works on whole columns and feeds training. `features` follows a manifest word by word for a single window,
as the engine on a node does. The golden vectors come from the second, and `train.py` refuses to write a bundle for
which the two differ.
"""

import math
from datetime import datetime, timedelta

import numpy as np

from sources import Series, offset

WIDTHS = {"weekday_one_hot": 7}
HOUR_MS = 3_600_000


def window_ends(series: Series, count: int, ahead: int, needed: list[str]) -> np.ndarray:
    """Rows that end a window of `count` readings and have a reading `ahead` later, all one hour apart.

    A window or a target with a missing value in one of the `needed` fields is left out.
    """
    complete = np.ones(len(series), dtype=bool)
    for field in needed:
        complete &= ~np.isnan(series.columns[field])
    span = count + ahead
    ends = [
        first + count - 1
        for first in range(len(series) - span + 1)
        if series.hours[first + span - 1] - series.hours[first] == span - 1 and complete[first : first + span].all()
    ]
    return np.array(ends)


def matrix(series: Series, ends: np.ndarray, ops: list[dict]) -> np.ndarray:
    """Features of many windows, one row each, f32."""
    blocks = []
    for op in ops:
        match op["op"]:
            case "lag":
                lagged = series.columns[op["field"]][ends[:, None] - np.array(op["lags"])[None, :]]
                blocks.append((lagged - op["mean"]) / op["std"])
            case "select":
                back = np.arange(op["last"] - 1, -1, -1)
                blocks.append((series.columns[op["field"]][ends[:, None] - back[None, :]] - op["mean"]) / op["std"])
            case "one_hot":
                text = series.columns[op["field"]][ends]
                blocks.append(np.stack([text == category for category in op["categories"]], axis=1).astype(float))
            case "calendar":
                newest = [series.times[end] for end in ends]
                blocks.append(np.array([calendar(t, op) for t in newest]))
            case other:
                raise ValueError(f"unknown op {other}")
    return np.concatenate(blocks, axis=1).astype(np.float32)


def features(window: list[dict], ops: list[dict]) -> np.ndarray:
    """Features of one window of readings, oldest first, in the form that golden.json gives them."""
    row: list[float] = []
    for op in ops:
        match op["op"]:
            case "lag":
                row += [(window[-1 - lag]["fields"][op["field"]] - op["mean"]) / op["std"] for lag in op["lags"]]
            case "select":
                newest = window[len(window) - op["last"] :]
                row += [(reading["fields"][op["field"]] - op["mean"]) / op["std"] for reading in newest]
            case "one_hot":
                text = window[-1]["fields"][op["field"]]
                row += [1.0 if text == category else 0.0 for category in op["categories"]]
            case "calendar":
                row += calendar(datetime.fromisoformat(window[-1]["ts"]), op)
            case other:
                raise ValueError(f"unknown op {other}")
    return np.array(row, dtype=np.float32)


def calendar(newest: datetime, op: dict) -> list[float]:
    """Calendar features of the moment `ahead_ms` after `newest`, in the zone of the op."""
    at = (newest + timedelta(milliseconds=op["ahead_ms"])).astimezone(offset(op["zone"]))
    hour = 2 * math.pi * (at.hour + at.minute / 60) / 24
    month = 2 * math.pi * (at.month - 1) / 12
    parts = {
        "hour_sin": [math.sin(hour)],
        "hour_cos": [math.cos(hour)],
        "weekday_one_hot": [1.0 if day == at.weekday() else 0.0 for day in range(7)],
        "month_sin": [math.sin(month)],
        "month_cos": [math.cos(month)],
    }
    return [number for part in op["parts"] for number in parts[part]]


def width(ops: list[dict]) -> int:
    """Number of features that `ops` make."""
    sizes = {
        "lag": lambda op: len(op["lags"]),
        "select": lambda op: op["last"],
        "one_hot": lambda op: len(op["categories"]),
        "calendar": lambda op: sum(WIDTHS.get(part, 1) for part in op["parts"]),
    }
    return sum(sizes[op["op"]](op) for op in ops)
