"""The pictures of a report: samples of the best checkpoint, nearest training images, and the course of the training."""

import shlex
from collections.abc import Sequence

import numpy as np

from ganctl.training.errors import DataError
from ganctl.training.images.pictures import to_picture
from ganctl.training.report.html import Html, element, join
from ganctl.training.report.pictures import animation_element, open_grid, picture_element
from ganctl.training.report.run import RunRecord
from ganctl.training.report.samples import COMPARED, BestCheckpoint, Pair, Pixels

_SHARE_OF_GRID, _SHARE_OF_TIMELAPSE = 8, 3  # of the limit; a pair gets a hundredth


def best_samples(run: RunRecord, best: BestCheckpoint, limit: int) -> Html:
    """A grid of uncurated samples, or the reason why there is none."""
    samples = best.samples
    if isinstance(samples, str):
        return _left_out("samples", samples)
    columns = f" Columns: {', '.join(samples.columns)}." if samples.columns else ""
    alt = f"{samples.count} generated images of the run {run.name}"
    picture = picture_element(to_picture(samples.grid), alt, limit=limit // _SHARE_OF_GRID)
    command = f"ganctl sample {shlex.quote(str(run.path))} {samples.flags} --out samples.png"
    caption = element(
        "figcaption", f"Step {best.step:,}: {samples.count} images, not selected.{columns} ", element("code", command)
    )
    return element("figure", picture, caption, class_=_background(samples.grid))


def neighbors(run: RunRecord, best: BestCheckpoint, limit: int) -> Html:
    """Generated images beside their nearest training images, or the reason why they are left out."""
    found = best.neighbors
    if isinstance(found, str):
        return _left_out("nearest training images", found)
    text = (
        f"Left: a generated image. Right: the nearest of {found.train_size:,} training images, by the Euclidean"
        " distance of their pixels. The usual distance is the median one of held-out images."
    )
    if (share := found.share_closer) is not None:
        text += (
            f" {share:.1%} of {COMPARED} generated images are closer to a training image than 99 % of the held-out"
            " images are; about 1 % is expected."
        )
    warning = (
        element("p", "So many near copies suggest that the generator copies training images.", class_="bad")
        if found.flagged
        else None
    )
    return join(
        element("p", text),
        warning,
        element("h3", "The first images, not selected"),
        _pairs(found.first, limit),
        element("h3", f"The closest of {COMPARED}"),
        _pairs(found.nearest, limit),
    )


def _pairs(pairs: Sequence[Pair], limit: int) -> Html:
    return element("ul", *(_pair(pair, limit) for pair in pairs), class_="pairs")


def _pair(pair: Pair, limit: int) -> Html:
    of_requested = f" of {pair.requested}" if pair.requested is not None else ""
    of_found = f" of {pair.found}" if pair.found is not None else ""
    alt = f"generated image{of_requested}, and the nearest training image{of_found}"
    classes = " | ".join(name for name in (pair.requested, pair.found) if name is not None)
    ratio = "" if pair.ratio is None else f"{pair.ratio:.2f} × the usual distance"
    caption = element("figcaption", "; ".join(each for each in (classes, ratio) if each))
    picture = picture_element(to_picture(pair.picture), alt, limit=limit // 100)
    return element("li", element("figure", picture, caption, class_=_background(pair.picture)))


def history(run: RunRecord, best: BestCheckpoint, limit: int) -> Html:
    """The grids of fixed latents: the first, a middle and the last one, and all of them as an animation."""
    paths = run.sample_grids
    if not paths:
        return _left_out("grids", "the run has no evaluation yet")
    chosen = list(dict.fromkeys([paths[0], paths[(len(paths) - 1) // 2], paths[-1]]))
    try:
        grids = [open_grid(path) for path in chosen]
        timelapse = animation_element(
            paths, f"timelapse of {len(paths)} evaluations", limit=limit // _SHARE_OF_TIMELAPSE
        )
    except DataError as error:
        return _left_out("grids", str(error))
    figures = [
        element(
            "figure",
            picture_element(grid, f"grid of fixed latents at step {int(path.stem)}", limit=limit // _SHARE_OF_GRID),
            element("figcaption", f"Step {int(path.stem):,}: fixed latents, a row each."),
        )
        for path, grid in zip(chosen, grids, strict=True)
    ]
    moving = (
        element("details", element("summary", f"Timelapse of {len(paths)} evaluations"), timelapse, open=True)
        if timelapse
        else None
    )
    background = "checkered" if grids[-1].mode == "RGBA" else None
    return element("div", element("div", *figures, class_="charts"), moving, class_=background)


def _left_out(what: str, reason: str) -> Html:
    return element("p", f"The {what} are left out: {reason.removesuffix('.')}.", class_="quiet")


def _background(pixels: Pixels) -> str | None:
    return "checkered" if pixels.shape[-1] == 4 and not np.all(pixels[..., 3] == 255) else None
