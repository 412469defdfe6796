"""Training speed beside peers."""
