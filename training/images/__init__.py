"""Generated images: sources, interpolation, pictures."""
