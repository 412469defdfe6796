"""The scores of a run that a report shows, and the sentences about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ganctl.training.evaluation.summary import score_line, summary
from ganctl.training.report.run import RunRecord, number

_READ = ("fd", "fd_floor", "label_accuracy", "scorer_accuracy", "kid", "kid_se", "no_summary")  # by the sentences


@dataclass(frozen=True)
class ScoreRow:
    """One row of the table of scores.

    Attributes:
        name: key of the score.
        title: in the table.
        real: key of the score of real images, or None.
        meaning: explanation in a few words.
        percent: whether the score is a share.
    """

    name: str
    title: str
    real: str | None
    meaning: str
    percent: bool = False


ROWS = (
    ScoreRow("fd", "Fréchet distance", "fd_floor", "lower is better; the floor is that of real images"),
    ScoreRow("fd_ratio", "distance ÷ floor", None, "1 is as good as real images"),
    ScoreRow("kid", "KID", None, "lower is better; does not depend on the number of images"),
    ScoreRow(
        "label_accuracy", "label accuracy", "scorer_accuracy", "images that the classifier reads as requested", True
    ),
    ScoreRow("precision", "precision", None, "generated images that look like real ones", True),
    ScoreRow("recall", "recall", None, "real images that the generator comes near to", True),
    ScoreRow("density", "density", None, "like precision, without a limit; real images have about 1"),
    ScoreRow("coverage", "coverage", None, "real images with a generated one among their neighbors", True),
    ScoreRow("class_balance", "class balance", "class_balance_real", "1 if all classes are equally frequent"),
    ScoreRow("inception_score", "inception score", "inception_score_real", "higher is better: clear, various classes"),
    ScoreRow("diversity", "diversity", None, "1 is as various as real images; near 0 the generator has collapsed"),
    ScoreRow("near_copies", "near copies", None, "about 1 % is expected; 5 % suggests copies of training images", True),
)  # fmt: skip


def best_scores(run: RunRecord, stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the scores that describe the run best.

    Args:
        run: the run.
        stored: scores in its best checkpoint; empty if there is none.

    Returns:
        Those on the test images of a finished run; else those of the best checkpoint; else those of the last
        evaluation; {} before the first one.
    """
    final = run.end.get("scores")
    if run.finished and isinstance(final, Mapping) and final:
        return final
    if stored:
        return {"split": "val", **stored}
    return {"split": "val", **run.evaluations[-1]} if run.evaluations else {}


def sentences(scores: Mapping[str, Any]) -> list[str]:
    """Describes scores in one to three sentences, also those of another version, which may lack some."""
    if not scores:
        return ["There is no evaluation yet, so nothing is known about the quality of the images."]
    numbers = {name: number(scores.get(name)) for name in _READ if name != "no_summary"}
    known = {"split": "val", "no_summary": None} | dict(scores) | numbers
    texts = [score_line(known)] if known["kid"] is None or known["kid_se"] is not None else []
    if known["no_summary"] or (number(known["kid"]) is not None and number(known["kid_se"]) is not None):
        readable = known if known["scorer_accuracy"] is not None else known | {"label_accuracy": None}
        texts.insert(0, summary(readable))
    if known.get("scorer_fault"):
        texts.append(f"no label scores: {known['scorer_fault']}")
    return [f"{text[0].upper()}{text[1:]}." for text in texts]


def score_text(scores: Mapping[str, Any], row: ScoreRow) -> str:
    """Returns a score as text, the KID with its standard error; an en dash if it is unknown."""
    text = value_text(scores.get(row.name), percent=row.percent)
    error = number(scores.get("kid_se")) if row.name == "kid" else None
    return text if error is None else f"{text} ± {error:.3f}"


def value_text(value: Any, *, percent: bool = False) -> str:
    """Returns a number as text; an en dash if it is unknown."""
    known = number(value)
    if known is None:
        return "–"
    return f"{known:.1%}" if percent else f"{known:.3f}"
