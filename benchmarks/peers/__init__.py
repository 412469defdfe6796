"""Peer servers for `ganctl bench serve`, each written as its framework's documentation recommends."""

GENERATOR = "GANCTL_BENCH_GENERATOR"  # environment variable with the path of generator.onnx
