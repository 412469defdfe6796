"""Small helpers of training: whole-file writes and the cache folder."""
