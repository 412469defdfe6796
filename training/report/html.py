"""HTML elements that escape their texts."""

from html import escape

from ganctl.training.readers.tree import printable

_VOID = ("br", "img", "meta", "source")  # elements without an end tag


class Html(str):
    """Text that is HTML already. Every other text is escaped when it enters an element."""


Child = str | None  # an Html or a text; None is left out


def element(name: str, *children: Child, **attributes: str | float | bool | None) -> Html:
    """Returns an HTML or SVG element.

    Args:
        name: of the element.
        children: content in order; texts are escaped, and their control characters written as `\\x1b`.
        attributes: a trailing `_` of a name is dropped (`class_`), another one becomes `-` (`text_anchor`). True gives
            an attribute without a value; None and False leave it out.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(f" {attribute}")
        elif value is not None and value is not False:
            parts.append(f' {attribute}="{text(value if isinstance(value, str) else str(value))}"')
    parts.append(">")
    if name in _VOID:
        return Html("".join(parts))
    return Html("".join([*parts, *(text(child) for child in children if child is not None), f"</{name}>"]))


def text(content: str) -> Html:
    """Returns a text as HTML; HTML is returned unchanged."""
    if isinstance(content, Html):
        return content
    return Html(escape(content if content.isprintable() else printable(content)))


def join(*children: Child) -> Html:
    """Joins elements and texts."""
    return Html("".join(text(child) for child in children if child is not None))


def table(head: list[Child], rows: list[list[Child]], *, caption: str) -> Html:
    """Returns a table in a box that scrolls by itself; the first cell of each row is its header.

    Args:
        head: headers of the columns.
        rows: cells.
        caption: what the table shows.
    """
    header = element("tr", *(element("th", cell, scope="col") for cell in head))
    body = [
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in cells))
        for first, *cells in rows
    ]
    content = element("table", element("caption", caption), element("thead", header), element("tbody", *body))
    return element("div", content, class_="scroll", tabindex=0, role="region", aria_label=caption)
