"""Networks that were trained on other images, and their weights; no training run changes them."""

from pathlib import Path

FEATURES_FILE = Path(__file__).with_name("features.safetensors")  # of the scores
PROJECTION_FILE = Path(__file__).with_name("projection.safetensors")  # of the projected discriminator
