"""Image quality per training time, compared with peers."""
