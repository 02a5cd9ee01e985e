"""Text of a corpus, made safe to look at.

Crawled text is hostile without meaning to be: control characters, marks that turn the direction of everything after
them, sentences of a megabyte. Markup is escaped like everything else in the page; this module does the rest.
"""

import unicodedata

from markupsafe import Markup, escape

# Other (control, format, surrogate, private, unassigned) and the two separators that end a line.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # spelling of Persian, Hindi and others needs them, and they change nothing around them
_MAX_MARKS = 4  # accents on one letter; more of them climb over the lines above


def visible(text: str, limit: int = 280) -> Markup:
    """`text` as HTML: escaped, what cannot be seen shown by its code point, cut after `limit` characters.

    What follows a right-to-left mark keeps its place, because the mark itself is gone; a text in a right-to-left
    script is still set from right to left, inside the element of its own that the caller puts it into.
    """
    shown, marks = [], 0
    for character in text[:limit]:
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if (category in _HIDDEN and character not in _JOINERS) or marks > _MAX_MARKS:
            shown.append(Markup('<span class="mark">U+{:04X}</span>').format(ord(character)))
        else:
            shown.append(escape(character))
    if len(text) > limit:
        shown.append(Markup('<span class="mark">… {:,} more</span>').format(len(text) - limit))
    return Markup("").join(shown)
