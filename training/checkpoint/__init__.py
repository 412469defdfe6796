"""Checkpoint files and run folders."""
