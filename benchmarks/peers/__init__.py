"""Servers that `ganctl bench serve` compares with, each written as its framework's own documents write theirs."""

GENERATOR = "GANCTL_BENCH_GENERATOR"  # the variable of the environment that names generator.onnx
