"""HTML as text: every text that is put into an element is escaped, so that it shows as itself."""

import base64
import hashlib
import html
import json

from folio.base.visible import harmless

# Elements that have no content and no end tag.
_VOID = {"input", "meta", "br"}


class Html(str):
    """A text that is HTML already. Any other text is escaped where it is put into an element."""


def element(name: str, /, *content, **attributes) -> Html:
    """Return an element of HTML. content: Html, texts, numbers, None for nothing, or lists of these.

    attributes: class_ for class, data_name for data-name; True is written without a value, None and False not at all.
    >>> element("p", "a < b ", element("b", 3), class_="lead")
    '<p class="lead">a &lt; b <b>3</b></p>'
    """
    written = "".join(_attribute(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items()
                      if value is not None and value is not False)
    return Html(f"<{name}{written}>" + ("" if name in _VOID else f"{joined(*content)}</{name}>"))


def joined(*content) -> Html:
    """Return several contents one after the other; see `element`."""
    return Html("".join(part if isinstance(part, Html) else "" if part is None
                        else joined(*part) if isinstance(part, (list, tuple)) or hasattr(part, "__next__")
                        else escaped(part) for part in content))


def escaped(value) -> str:
    """Return a text as HTML that shows it; control characters and lone surrogates become visible escapes.
    >>> print(escaped("</script> & \\x00"))
    &lt;/script&gt; &amp; \\x00
    """
    return html.escape(harmless(str(value)))


def _attribute(name, value):
    return f" {name}" if value is True else f' {name}="{escaped(value)}"'


def data_element(id: str, values) -> Html:
    """Return a script element with values in JSON that the browser does not run. No text can end it: < is escaped."""
    content = json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{id}">{content}</script>')


def raw_element(name: str, content: str) -> Html:
    """Return a style or script element with a program of ours; hashed() names it in the page's policy."""
    for end in ("<!--", f"</{name}"):
        assert end not in content.lower(), f"{end} in the content would end the element {name}"
    return Html(f"<{name}>{content}</{name}>")


def hashed(content: str) -> str:
    """Return the source expression of a Content Security Policy that allows exactly this style or script.
    >>> hashed("")
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode('utf-8')).digest()).decode('ascii')}'"
