"""Python API of generators: `load` opens one, and its result draws, walks, decodes and encodes.

Importing this package does not import torch, and neither does `load` of a URL.
"""
