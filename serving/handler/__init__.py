"""The code that travels inside the archive and runs in TorchServe's workers.

It must run where this project is not installed: imports inside this folder are relative, and beyond the standard
library it needs NumPy, Pillow and the one library of its back-end (ONNX Runtime, or the torch that TorchServe needs
anyway).
"""
