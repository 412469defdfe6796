"""Serving: TorchServe archives of verified exports, a server for them, and Python clients."""
