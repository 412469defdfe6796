"""Checkpoint files, run folders and their locks."""
