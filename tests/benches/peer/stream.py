"""JSON readings to windows."""

import math
from datetime import datetime

import numpy as np
import orjson

from model import Model


class Stream:
    """Keeps the newest readings of a stream; each new one completes a window of the last `count`."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.times = np.empty(0, dtype=np.int64)
        self.columns = {field: np.empty(0) for field in model.fields}
        self.newest = -math.inf
        self.malformed = self.late = self.unfit = 0

    def push(self, batch: list) -> tuple[list, dict, list]:
        """Arrival times of the readings that complete a window, a matrix of windows for each field, their newest times."""
        arrivals, moments, times, rows = [], [], [], []
        for arrival, payload in batch:
            try:
                reading = orjson.loads(payload)
                moment = datetime.fromisoformat(reading["ts"])
                row = [float(reading[field]) for field in self.model.fields]
            except (ValueError, KeyError, TypeError):
                self.malformed += 1
                continue
            at = int(moment.timestamp() * 1000)
            if at <= self.newest:
                self.late += 1
                continue
            self.newest = at
            arrivals.append(arrival)
            moments.append(moment)
            times.append(at)
            rows.append(row)
        if not times:
            return [], {}, []
        count = self.model.count
        self.times = np.concatenate((self.times, times))
        for field, column in zip(self.model.fields, np.array(rows).T):
            self.columns[field] = np.concatenate((self.columns[field], column))
        complete = max(0, len(self.times) - count + 1)
        if complete:
            windows = {
                field: np.lib.stride_tricks.sliding_window_view(column, count)
                for field, column in self.columns.items()
            }
            even = np.diff(self.times) == self.model.step_ms
            fits = np.lib.stride_tricks.sliding_window_view(even, count - 1).all(axis=1)
            arrivals, moments = arrivals[-complete:], moments[-complete:]
            if not fits.all():
                self.unfit += int((~fits).sum())
                windows = {field: matrix[fits] for field, matrix in windows.items()}
                arrivals = [arrival for arrival, fit in zip(arrivals, fits) if fit]
                moments = [moment for moment, fit in zip(moments, fits) if fit]
        else:
            windows, arrivals, moments = {}, [], []
        # The next window needs all but the oldest of these.
        self.times = self.times[-(count - 1) :]
        for field in self.model.fields:
            self.columns[field] = self.columns[field][-(count - 1) :]
        return arrivals, windows, moments
