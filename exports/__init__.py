"""Exports: a checkpoint becomes verified TorchScript and ONNX files with a manifest."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reports to its maker unless told before its import
