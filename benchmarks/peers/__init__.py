"""Peers of `ganctl bench`: servers as their frameworks' documentation recommends, and GANs of other projects."""

GENERATOR = "GANCTL_BENCH_GENERATOR"  # environment variable with the path of generator.onnx
