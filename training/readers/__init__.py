"""Readers of data sets: each module reads one format, from a folder, an archive or a file, and opens no image."""
