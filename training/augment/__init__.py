"""Augmentation of the images that the discriminator sees, so that it does not memorize a small training set."""
