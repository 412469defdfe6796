"""Generated images: the sources that generate them, interpolation of latents and labels, and picture files."""
