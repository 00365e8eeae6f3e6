"""A bundle of the zoo in onnxruntime: features by its manifest, many windows in one call."""

import hashlib
import json
import math
from datetime import timedelta, timezone
from pathlib import Path

import numpy as np
import onnx
import onnxruntime


class Model:
    def __init__(self, bundle: Path) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text())
        onnx_bytes = (bundle / "model.onnx").read_bytes()
        if f"sha256:{hashlib.sha256(onnx_bytes).hexdigest()}" != manifest["model"]["digest"]:
            raise ValueError(f"{bundle}: model.onnx is not the file that the manifest names")
        self.count = manifest["window"]["count"]
        self.step_ms = manifest["window"].get("step_ms")
        self.ops = manifest["features"]
        self.fields = sorted({op["field"] for op in self.ops if "field" in op})
        kind = manifest["output"]["kind"]["value"]
        self.scale, self.offset, self.unit = kind["scale"], kind["offset"], kind["unit"]
        self.horizon = timedelta(milliseconds=kind["horizon_ms"])
        self.input = manifest["input"]["tensor"]
        self.width = manifest["input"]["shape"][1]
        self.reference = {
            "name": manifest["name"],
            "version": manifest["version"],
            "digest": manifest["model"]["digest"],
        }
        options = onnxruntime.SessionOptions()
        # More threads cost more than they bring in so small a network.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(batched(onnx_bytes), options, providers=["CPUExecutionProvider"])

    def run(self, windows: dict, newest: list) -> list[float]:
        """Values of windows; `windows` holds a matrix a field, a row a window, and `newest` their newest times."""
        inputs = np.empty((len(newest), self.width), dtype=np.float32)
        at = 0
        for op in self.ops:
            match op["op"]:
                case "lag":
                    columns = [-1 - lag for lag in op["lags"]]
                    block = (windows[op["field"]][:, columns] - op["mean"]) / op["std"]
                case "calendar":
                    block = np.array([self.calendar(op, moment) for moment in newest])
                case other:
                    raise ValueError(f"unknown op {other}")
            inputs[:, at : at + block.shape[1]] = block
            at += block.shape[1]
        output = self.session.run(None, {self.input: inputs})[0]
        return (output[:, 0].astype(float) * self.scale + self.offset).tolist()

    def calendar(self, op: dict, newest) -> list[float]:
        at = (newest + timedelta(milliseconds=op["ahead_ms"])).astimezone(zone(op["zone"]))
        return calendar_parts(at.hour, at.minute, at.weekday(), at.month)


ZONES: dict = {}
PARTS: dict = {}


def zone(text: str) -> timezone:
    if text not in ZONES:
        sign = -1 if text[0] == "-" else 1
        ZONES[text] = timezone(sign * timedelta(hours=int(text[1:3]), minutes=int(text[4:6])))
    return ZONES[text]


def calendar_parts(hour: int, minute: int, weekday: int, month: int) -> list[float]:
    """hour_sin, hour_cos, weekday_one_hot, month_sin, month_cos; remembered, since there are few."""
    key = (hour, minute, weekday, month)
    if key not in PARTS:
        turn = 2 * math.pi * (hour + minute / 60) / 24
        year = 2 * math.pi * (month - 1) / 12
        days = [1.0 if day == weekday else 0.0 for day in range(7)]
        PARTS[key] = [math.sin(turn), math.cos(turn), *days, math.sin(year), math.cos(year)]
    return PARTS[key]


def batched(onnx_bytes: bytes) -> bytes:
    """The same network with a free batch dimension, so that many windows go through in one call."""
    model = onnx.load_model_from_string(onnx_bytes)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    return model.SerializeToString()
