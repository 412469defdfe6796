"""Serving: a verified export becomes a TorchServe archive, a running server, and a client that asks it for images."""
