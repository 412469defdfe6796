"""One update of both networks, eager or as a CUDA graph."""
