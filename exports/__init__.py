"""Exports: a checkpoint becomes verified TorchScript and ONNX files with a manifest."""
