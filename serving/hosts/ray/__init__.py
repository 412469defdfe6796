"""Ray Serve as a host: `ganctl package --for ray` writes a folder that Ray runs without ganctl."""
