"""Servers that host the handler, one folder each."""
