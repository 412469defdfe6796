"""Benchmarks against peers (`ganctl bench`) and the search for training recipes."""
