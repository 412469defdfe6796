"""The page that a browser gets: one HTML file that loads nothing from elsewhere, made once from what the model is."""

import base64
import hashlib
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

from .common.latents import MAX_SEED
from .model import Model
from .request import FILMS, LAYOUTS, STOPS

_TEMPLATE = Path(__file__).with_name("page.html")
_WIDTH = 448  # pixels: four images side by side, as the page first shows them, fill about so many
_FRAMES = 48  # of the first film: 2.4 seconds
_EXAMPLE = "2026"


@dataclass(frozen=True)
class Page:
    """The page's bytes, and the headers that belong to them."""

    body: bytes
    headers: dict[str, str]


def build(model: Model, name: str = "digits") -> Page:
    """The page of the service that answers for the model `name`."""
    values = _values(model) | {"name": name}
    # in one pass, so that no value is taken for a template
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], _TEMPLATE.read_text(encoding="utf-8"))
    body = text.encode()
    headers = {
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        "Content-Security-Policy": _policy(text),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return Page(body, headers)


def _policy(text: str) -> str:
    """Lets the browser run this very script and style, ask this server, show what came of it, and nothing else."""
    sources = {tag: _hash(*re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)) for tag in ("script", "style")}
    return (
        f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; img-src blob: data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def _hash(element: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(element.encode()).digest()).decode()}'"


def _values(model: Model) -> dict[str, str]:
    """What stands in the template's places: text of ours, numbers, and the model's own words, escaped."""
    limits = model.limits
    texts = model.conditional and all(len(name) == 1 for name in model.class_names)
    colour = "grey" if model.channels == 1 else "colour"
    labels = f" · {len(model.class_names)} labels" if model.conditional else ""
    numbers = {
        "count": min(4 if texts else 16, limits.max_count),
        "max_count": limits.max_count,
        "stops": min(STOPS, limits.max_count),
        "scale": max(1, min(limits.max_scale, _WIDTH // (4 * model.width))),
        "max_scale": limits.max_scale,
        "frames": min(_FRAMES, limits.max_frames),
        "max_frames": limits.max_frames,
        "max_seed": MAX_SEED,
    }
    return {name: str(value) for name, value in numbers.items()} | {
        "title": "Handwriting from a network" if texts else "Pictures from a network",
        "lead": _lead(model, texts),
        "what": _text(model) if texts else _labels(model) if model.conditional else "",
        "another": "New handwriting" if texts else "Draw others",
        "count_label": "Handwritings" if texts else "Pictures",
        "stops_label": "Handwritings on the way" if texts else "Pictures on the way",
        "layouts": _options(LAYOUTS),
        "films": _options(FILMS[::-1]),  # WebP first: all colours, fewer bytes
        "version": escape(model.version),
        "facts": f"{model.width} × {model.height} pixels, {colour}{labels}",
    }


def _lead(model: Model, texts: bool) -> str:
    if texts:
        return "Type, and a neural network writes it by hand. Every picture is new; none was ever on paper."
    choose = "Choose, and a neural network draws it. " if model.conditional else "A neural network draws them. "
    return choose + "Every picture is new; none is a photograph."


def _text(model: Model) -> str:
    """A field for text, with a key for each character that the model knows."""
    names = model.class_names
    example = _EXAMPLE if set(_EXAMPLE) <= set(names) else "".join(names[: len(_EXAMPLE)])
    longest = model.limits.max_text
    keys = "".join(f'<button type="button" value="{escape(name)}">{escape(name)}</button>' for name in names)
    keyboard = ' inputmode="numeric"' if all(name.isdecimal() for name in names) else ""
    return (
        '<label for="text">Text</label>\n'
        f'<div class="row"><input id="text" name="text" type="text" value="{escape(example[:longest])}"'
        f' maxlength="{longest}" required{keyboard} autocomplete="off" autocapitalize="off" spellcheck="false"'
        ' aria-describedby="fault-text">\n'
        '<button class="scripted" type="button" id="back" aria-label="Delete the last character">⌫</button></div>\n'
        '<p class="fault" id="fault-text"></p>\n'
        f'<div class="keys scripted">{keys}</div>'
    )


def _labels(model: Model) -> str:
    """A choice of labels: one without the script (a query's field can be given once), any number with it."""
    chips = "".join(
        f'<label class="chip"><input type="radio" name="digits" value="{label}">{escape(name)}</label>'
        for label, name in enumerate(model.class_names)
    )
    return (
        '<fieldset id="digits" aria-describedby="fault-digits"><legend>What</legend>\n'
        f'<div class="chips">{chips}</div>\n<p class="fault" id="fault-digits"></p></fieldset>'
    )


def _options(values: tuple[str, ...]) -> str:
    """`<option>`s; a media type is shown by its last part."""
    return "".join(f'<option value="{value}">{value.rpartition("/")[2]}</option>' for value in values)
