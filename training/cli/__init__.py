"""The commands `train`, `evaluate`, `sample` and `inspect`."""
