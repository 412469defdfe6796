"""The training step: updates both networks once, eagerly or as a CUDA graph."""
