"""Request handler, which is packed into the archive and runs in the workers of a host, such as TorchServe.

It runs where ganctl is not installed. Imports inside this folder are therefore relative. Apart from the standard
library, it needs only NumPy, Pillow and the library of its backend: ONNX Runtime or torch.
"""
