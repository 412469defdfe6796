"""TorchServe as a host of the handler."""
