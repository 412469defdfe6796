"""The process that draws, in the place of TorchServe's own: it reads a batch in one go, and loads no torch for ONNX."""
