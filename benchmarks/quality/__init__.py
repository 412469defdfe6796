"""Quality per training time beside peers."""
