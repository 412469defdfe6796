"""Bench of the scores themselves: whether they fall when images get worse, and rise when a generator gets better."""
