"""Training: data, networks, losses, one update step, the loop, callbacks, checkpoints and evaluation."""
