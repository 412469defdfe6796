"""Commands from `ganctl deploy` to a running server."""
