"""Number of the current measure: scores of different measures cannot be compared.

1: features of a small classifier that was trained on the images themselves.
2: features of a network that was trained on ImageNet; KID; labels read by a classifier on those features.
"""

MEASURE = 2  # raise it when a change of the features, or of the computation of a score, changes scores
