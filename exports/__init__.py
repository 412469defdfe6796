"""Exports: verified TorchScript, ONNX and PT2 files of a generator, with a manifest and a model card."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it at import
