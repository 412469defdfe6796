"""Generated images: the sources that draw them, interpolation of latents and labels, and picture files."""
