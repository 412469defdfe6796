"""The work of `ganctl sample`: requests, samplers (local or a server), rejection of misread images, and output files.

A seed means the same as for the service: with the same model, seed and request both draw the same images.
"""

from ganctl.training.sampling.films import draw_walk
from ganctl.training.sampling.rejection import LabelPredictor, MisreadError, draw_accepted
from ganctl.training.sampling.request import Film, SampleRequest, SampleRequestError, SampleResult
from ganctl.training.sampling.samplers import LocalSampler, Sampler, ServerSampler, draw
from ganctl.training.sampling.writers import check_output_path, open_images, save, save_walk

__all__ = [
    "Film",
    "LabelPredictor",
    "LocalSampler",
    "MisreadError",
    "SampleRequest",
    "SampleRequestError",
    "SampleResult",
    "Sampler",
    "ServerSampler",
    "check_output_path",
    "draw",
    "draw_accepted",
    "draw_walk",
    "open_images",
    "save",
    "save_walk",
]  # fmt: skip
