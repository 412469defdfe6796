"""The training loop: construction, control, sessions, torchrun."""
