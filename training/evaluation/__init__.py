"""Evaluation: how close generated images are to real ones, in the feature space of a digit classifier."""
