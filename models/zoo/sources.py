"""Reads the public data sets in `data/` and brings each to one row an hour.

Both sets give wall-clock time without an offset. A fixed offset is written beside it (-06:00 for Minneapolis,
+08:00 for Beijing), so that the hour of the day stays what the source says. The I-94 set follows the local clock
through daylight saving, and so the rush hour is at the same hour all year; the one hour that the clock skips each
March is a gap like any other.
"""

import csv
import gzip
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

I94_ZONE = "-06:00"
AIR_ZONE = "+08:00"


def offset(zone: str) -> timezone:
    """Turns `-06:00` into a fixed offset."""
    sign = -1 if zone[0] == "-" else 1
    hours, minutes = zone[1:].split(":")
    return timezone(sign * timedelta(hours=int(hours), minutes=int(minutes)))


@dataclass
class Series:
    """Readings in order of time; `columns` has one array a field, as long as `times`."""

    times: list[datetime]
    columns: dict[str, np.ndarray]

    def __post_init__(self):
        self.hours = np.array([int(t.timestamp()) // 3600 for t in self.times], dtype=np.int64)
        self.years = np.array([t.year for t in self.times])

    def __len__(self):
        return len(self.times)

    def after(self, first: datetime) -> "Series":
        """Keeps the readings from `first` on."""
        start = next(i for i, t in enumerate(self.times) if t >= first)
        return Series(self.times[start:], {name: column[start:] for name, column in self.columns.items()})


def _rows(path: Path):
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def read_i94(folder: Path) -> Series:
    """Hourly volume (vehicles/h) and temperature (degrees Celsius).

    The source repeats an hour for each weather report in it, always with the same volume: the first row stands.
    Its ten temperatures of 0 K are missing values, here NaN.
    """
    zone = offset(I94_ZONE)
    by_hour = {}
    for row in _rows(folder / "traffic-i94-hourly.csv.gz"):
        by_hour.setdefault(datetime.fromisoformat(row["date_time"]).replace(tzinfo=zone), row)
    times = sorted(by_hour)
    kelvin = np.array([float(by_hour[t]["temp"]) for t in times])
    return Series(
        times,
        {
            "volume": np.array([float(by_hour[t]["traffic_volume"]) for t in times]),
            "temp": np.where(kelvin > 0.0, np.round(kelvin - 273.15, 2), np.nan),
        },
    )


def read_air(folder: Path) -> Series:
    """Hourly PM2.5 (ug/m3, NaN where missing), dew point and temperature (degrees Celsius), pressure (hPa), wind."""
    zone = offset(AIR_ZONE)
    rows = list(_rows(folder / "air-beijing-pm25-hourly.csv.gz"))
    times = [datetime(int(r["year"]), int(r["month"]), int(r["day"]), int(r["hour"]), tzinfo=zone) for r in rows]
    columns = {
        "pm25": np.array([float("nan") if r["pm2.5"] == "NA" else float(r["pm2.5"]) for r in rows]),
        "wind": np.array([r["cbwd"] for r in rows]),
    }
    for field, source in {"dewp": "DEWP", "temp": "TEMP", "pres": "PRES", "iws": "Iws"}.items():
        columns[field] = np.array([float(r[source]) for r in rows])
    return Series(times, columns)


def write_replay(series: Series, fields: list[str], path: Path) -> None:
    """Writes plain CSV for programs that play the readings back; an empty cell is a missing value."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["ts", *fields])
        for i, time in enumerate(series.times):
            cells = (series.columns[field][i] for field in fields)
            writer.writerow([time.isoformat(), *(_cell(cell) for cell in cells)])


def _cell(value) -> str:
    if isinstance(value, str):
        return value
    return "" if np.isnan(value) else f"{value:.10g}"
