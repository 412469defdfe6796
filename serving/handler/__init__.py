"""Request handler that is packed into the archive and runs in TorchServe's workers.

It runs where ganctl is not installed. Imports inside this folder are therefore relative. Apart from the standard
library, it needs only NumPy, Pillow and the library of its back-end: ONNX Runtime, or the torch that TorchServe needs.
"""
