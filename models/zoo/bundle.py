"""Writes a bundle: model.onnx, golden.json and manifest.json."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from features import HOUR_MS, features, matrix, width
from network import Perceptron, to_onnx
from sources import Series

INPUT = "features"
# Given, not read from a clock: the same training must give the same bytes.
CREATED_AT = "2026-11-24T00:00:00Z"
ABS_TOLERANCE = 1e-3
REL_TOLERANCE = 1e-4


@dataclass
class Draft:
    """What a manifest says beyond the digests."""

    name: str
    version: str
    task: str
    summary: str
    ops: list[dict]
    window: int
    output_tensor: str
    outputs: int
    kind: dict
    data: str
    metrics: dict


def write(out: Path, draft: Draft, net: Perceptron, series: Series, ends: np.ndarray, fields: list[str]) -> int:
    """Writes the bundle with the windows that end at `ends` as golden vectors; returns the size of model.onnx."""
    folder = out / draft.name / draft.version
    folder.mkdir(parents=True, exist_ok=True)
    model = to_onnx(net, draft.name, INPUT, draft.output_tensor)
    golden = _golden(model, net, draft, series, ends, fields)
    manifest = _text(_manifest(draft, model, golden))
    (folder / "model.onnx").write_bytes(model)
    (folder / "golden.json").write_bytes(golden)
    (folder / "manifest.json").write_text(manifest, encoding="utf-8")
    return len(model)


def _golden(model: bytes, net: Perceptron, draft: Draft, series: Series, ends, fields: list[str]) -> bytes:
    """Runs each window through onnxruntime; fails when the two preprocessings or the two networks disagree."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    cases = []
    for end, trained_on in zip(ends, matrix(series, ends, draft.ops)):
        window = [
            {"ts": series.times[i].isoformat(), "fields": {name: _value(series.columns[name][i]) for name in fields}}
            for i in range(end - draft.window + 1, end + 1)
        ]
        row = features(window, draft.ops)
        np.testing.assert_allclose(row, trained_on, rtol=1e-6, atol=1e-6)
        outputs = session.run([draft.output_tensor], {INPUT: row[None, :]})[0]
        np.testing.assert_allclose(outputs, net(row[None, :]), rtol=REL_TOLERANCE, atol=ABS_TOLERANCE / 10)
        cases.append({"window": window, "features": _shortest(row), "outputs": _shortest(outputs[0])})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    return f'{{"schema":1,"cases":[\n{lines}\n]}}\n'.encode()


def _manifest(draft: Draft, model: bytes, golden: bytes) -> dict:
    return {
        "schema": 1,
        "name": draft.name,
        "version": draft.version,
        "task": draft.task,
        "summary": draft.summary,
        "model": {"digest": _digest(model), "bytes": len(model)},
        "input": {"tensor": INPUT, "shape": [1, width(draft.ops)], "dtype": "f32"},
        "window": {"count": draft.window, "step_ms": HOUR_MS},
        "features": draft.ops,
        "output": {"tensor": draft.output_tensor, "shape": [1, draft.outputs], "kind": draft.kind},
        "golden": {"digest": _digest(golden), "abs_tolerance": ABS_TOLERANCE, "rel_tolerance": REL_TOLERANCE},
        "provenance": {
            "created_at": CREATED_AT,
            "trainer": "models/zoo/train.py",
            "data": draft.data,
            "metrics": draft.metrics,
            "parent": None,
        },
    }


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _value(value):
    return str(value) if isinstance(value, str) else float(value)


def _shortest(row: np.ndarray) -> list[float]:
    """The shortest decimals that read back as the same f32."""
    return [float(str(np.float32(value))) for value in row]


def _text(manifest: dict) -> str:
    """Indented JSON with each list of plain values on one line."""
    text = json.dumps(manifest, indent=2)
    return (
        re.sub(
            r"\[[^\[\]{}]*\]",
            lambda found: re.sub(r"\s*\n\s*", " ", found[0]).replace("[ ", "[").replace(" ]", "]"),
            text,
        )
        + "\n"
    )
