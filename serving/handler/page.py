"""Builds the page for browsers: one HTML file without external resources, filled in from the model."""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path

from .common.latents import MAX_SEED
from .model import Model
from .replies import Reply
from .request import ANIMATION_TYPES, DEFAULT_KEYFRAMES, HTML_TYPE, LAYOUTS

_TEMPLATE = Path(__file__).with_name("page.html")
_WIDTH = 448  # pixels; the first picture, four images wide, is about this wide
_FRAMES = 48  # initial value of the field: an animation of 2.4 seconds
_EXAMPLE = "2026"


def page_enabled(environment: Mapping[str, str]) -> bool:
    """Return whether the variable GANCTL_PAGE leaves the page enabled.

    Raises:
        ValueError: its value is neither `on` nor `off`.
    """
    text = environment.get("GANCTL_PAGE", "")
    if text.strip().lower() not in ("", "on", "off"):
        raise ValueError(f"GANCTL_PAGE: found {text!r}, expected on or off. Change it, or unset it.")
    return text.strip().lower() != "off"


def build_page(model: Model) -> Reply:
    """Build the page of a model, as the reply to a browser."""
    values = _values(model)
    # one pass over the template, so that a placeholder inside a value is not replaced
    text = re.sub(r"\{\{(\w+)\}\}", lambda match: str(values[match[1]]), _TEMPLATE.read_text(encoding="utf-8"))
    body = text.encode()
    headers = {
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        "Content-Security-Policy": _policy(text),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return Reply(200, f"{HTML_TYPE}; charset=utf-8", body, headers)


def _policy(text: str) -> str:
    """A content security policy that allows only the page's own script and style, and requests to its own server."""
    sources = {tag: _hash(*re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)) for tag in ("script", "style")}
    return (
        f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; img-src blob: data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def _hash(element: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(element.encode()).digest()).decode()}'"


def _values(model: Model) -> dict[str, object]:
    """The template's placeholders with their values as HTML; text from the model is escaped."""
    limits = model.limits
    one_character = model.conditional and all(len(name) == 1 for name in model.class_names)
    takes_text = one_character and model.channels == 1  # numbered classes of color images are no characters
    color = {1: "grayscale", 3: "color", 4: "color and transparency"}[model.channels]
    labels = f" · {len(model.class_names)} labels" if model.conditional else ""
    return {
        **asdict(limits),
        "name": model.name,
        "max_count": model.max_count,
        "max_frames": model.max_frames,
        "count": min(4 if takes_text else 16, model.max_count),
        "keyframes": min(DEFAULT_KEYFRAMES, model.max_count),
        "scale": max(1, min(limits.max_scale, round(_WIDTH / (4 * model.width)))),
        "frames": min(_FRAMES, model.max_frames),
        "max_seed": MAX_SEED,
        "title": "Handwriting from a neural network" if takes_text else "Pictures from a neural network",
        "lead": _lead(model, takes_text),
        "inputs": _text_input(model) if takes_text else _label_inputs(model) if model.conditional else "",
        "new_seed": "New handwriting" if takes_text else "New pictures",
        "count_label": "Handwritings" if takes_text else "Pictures",
        "layouts": _options(LAYOUTS),
        "animations": _options(ANIMATION_TYPES[::-1]),  # WebP first: all colors, fewer bytes
        "plate": "plate checkered" if model.channels == 4 else "plate",
        "credit": _credit(model),
        "version": escape(model.version),
        "facts": f"{model.width} × {model.height} pixels, {color}{labels}",
    }


def _lead(model: Model, takes_text: bool) -> str:
    if takes_text:
        return "Type, and a neural network writes it by hand. Every picture is new."
    choose = "Choose, and a neural network draws it. " if model.conditional else "A neural network draws them. "
    return choose + "Every picture is new; none is a photograph."


def _credit(model: Model) -> str:
    """Names the license and the authors of the training images, if the export does."""
    parts = [model.attribution and f"by {model.attribution}", model.license]
    return f"<br>Training images {escape(', '.join(filter(None, parts)))}" if any(parts) else ""


def _text_input(model: Model) -> str:
    """A text field, with a key for each character that is a label."""
    names = model.class_names
    example = _EXAMPLE if set(_EXAMPLE) <= set(names) else "".join(names[: len(_EXAMPLE)])
    longest = model.limits.max_text
    keys = "".join(f'<button type="button" value="{escape(name)}">{escape(name)}</button>' for name in names)
    keyboard = ' inputmode="numeric"' if all(name.isdecimal() for name in names) else ""
    return (
        '<label for="text">Text</label>\n'
        f'<div class="row"><input id="text" name="text" type="text" value="{escape(example[:longest])}"'
        f' maxlength="{longest}" required{keyboard} autocomplete="off" autocapitalize="off" spellcheck="false"'
        ' aria-describedby="error-text">\n'
        '<button class="scripted" type="button" id="back" aria-label="Delete the last character">⌫</button></div>\n'
        '<p class="error" id="error-text"></p>\n'
        f'<div class="keys scripted">{keys}</div>'
    )


def _label_inputs(model: Model) -> str:
    """A choice of labels: at most one without the script, as a form would repeat the field, and any number with it."""
    chips = "".join(
        f'<label class="chip"><input type="radio" name="digits" value="{label}">{escape(name)}</label>'
        for label, name in enumerate(model.class_names)
    )
    return (
        '<fieldset id="digits" aria-describedby="error-digits"><legend>Labels</legend>\n'
        f'<div class="chips">{chips}</div>\n<p class="error" id="error-digits"></p></fieldset>'
    )


def _options(values: tuple[str, ...]) -> str:
    """`<option>` elements; a media type shows its subtype."""
    return "".join(f'<option value="{value}">{value.rpartition("/")[2]}</option>' for value in values)
