"""Training speed, compared with peers."""
