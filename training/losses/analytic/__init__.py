"""Hand-derived gradients for supported discriminators."""
