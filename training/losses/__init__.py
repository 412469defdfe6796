"""Losses of both networks and the backends that carry their gradients."""
