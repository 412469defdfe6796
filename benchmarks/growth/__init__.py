"""`ganctl bench growth`: time and memory of a training against one size at a time."""
