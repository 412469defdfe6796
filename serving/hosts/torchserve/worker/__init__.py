"""Worker process that replaces TorchServe's own: it reads a whole batch in one call and imports no torch for ONNX."""
