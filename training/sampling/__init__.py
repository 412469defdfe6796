"""`ganctl sample`: what was ordered, drawn from a source or a server, and saved as a picture, an array or a film.

Seeds mean here what they mean to the service: with the same model, seed and order both draw the same images.
"""

from ganctl.training.sampling.films import draw_walk
from ganctl.training.sampling.rejection import MisreadError, Reader, draw_accepted
from ganctl.training.sampling.request import Film, OrderError, SampleRequest, SampleResult
from ganctl.training.sampling.samplers import LocalSampler, Sampler, ServerSampler, draw
from ganctl.training.sampling.writers import check_name, open_images, save, save_walk

__all__ = [
    "Film",
    "LocalSampler",
    "MisreadError",
    "OrderError",
    "Reader",
    "SampleRequest",
    "SampleResult",
    "Sampler",
    "ServerSampler",
    "check_name",
    "draw",
    "draw_accepted",
    "draw_walk",
    "open_images",
    "save",
    "save_walk",
]  # fmt: skip
