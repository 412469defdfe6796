"""Generator and discriminator networks, one file a family."""
