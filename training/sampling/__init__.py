"""`ganctl sample`: what was ordered, drawn from a source or a server, and saved as a picture, an array or a film.

Seeds mean here what they mean to the service: with the same model, seed and order both draw the same images.
"""

from ganctl.training.sampling.films import draw_walk
from ganctl.training.sampling.rejection import Reader, UnverifiedError, draw_verified
from ganctl.training.sampling.request import Drawn, Film, Order, OrderError
from ganctl.training.sampling.samplers import Drawer, LocalDrawer, ServerDrawer, draw
from ganctl.training.sampling.writers import check_name, open_images, save, save_walk

__all__ = [
    "Drawer", "Drawn", "Film", "LocalDrawer", "Order", "OrderError", "Reader", "ServerDrawer", "UnverifiedError",
    "check_name", "draw", "draw_verified", "draw_walk", "open_images", "save", "save_walk",
]  # fmt: skip
