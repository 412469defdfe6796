"""Data sets: readers, decoding, splits, batches."""
