"""The commands `package`, `serve` and `deploy`."""
