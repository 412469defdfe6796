"""Losses of both networks, and the backends that compute their gradients."""
