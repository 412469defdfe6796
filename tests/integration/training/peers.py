"""Run by torchrun in test_ranks.py: both implementations in `benchmarks.speed.rank_step` compute the same weights."""

import torch

from ganctl.benchmarks.speed.rank_step import CASES, build, build_wrapped
from ganctl.training.data.datasets import load_split
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.loop.recipe import configure

STEPS, BATCH = 3, 8


def main() -> None:
    ranks, cpu = Ranks.join(), torch.device("cpu")
    data = load_split(configure().data, "train")
    for case, assignments in CASES.items():
        weights = []
        for make in (build, build_wrapped):
            settings = (*assignments, "model.base_channels=4", "optimizer.grad_clip_ratio=0.1")  # clips every gradient
            step = make(settings, ranks, cpu)
            discriminator = step.discriminator
            for number in range(STEPS):
                share = ranks.local_slice(BATCH)
                images, labels = data.images[:BATCH][share], data.labels[:BATCH][share]
                # a low rate: differences of rounding must not grow
                step(images, labels, step=number, progress=0.0, lr_factor=1e-3)
            weights.append(torch.cat([parameter.detach().flatten() for parameter in discriminator.parameters()]))
            clip = step.phases[0].clip
            assert clip is not None
            weights.append(clip.state_dict()["means"].sqrt())  # the RMS of each gradient norm
        torch.testing.assert_close(weights[0], weights[2], rtol=1e-4, atol=1e-5, msg=f"weights of {case}")
        torch.testing.assert_close(weights[1], weights[3], rtol=1e-2, atol=1e-5, msg=f"gradients of {case}")
    if ranks.is_main:
        print(f"equal: {'; '.join(CASES)}")
    ranks.leave()


if __name__ == "__main__":
    main()
