"""Benchmarks: measurements against peers (`ganctl bench`), and the search for recipes."""
