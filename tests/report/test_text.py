"""Corpus text in the page: escaped, nothing in it that cannot be seen, never too long."""

import pytest

from fairseq_l2rw.report.text import visible


def test_plain_text_stays():
    assert visible("Zwei Männer – 猫が – שלום – क्षि") == "Zwei Männer – 猫が – שלום – क्षि"


def test_markup_is_escaped():
    assert visible("<script>alert('x')</script> & \"") == "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &#34;"


@pytest.mark.parametrize(
    "code", [0x00, 0x1B, 0x09, 0x7F, 0x85, 0x200B, 0x200F, 0x202E, 0x2028, 0x2066, 0xFEFF, 0xE0041]
)
def test_what_cannot_be_seen_is_shown(code):
    assert visible(f"a{chr(code)}b") == f'a<span class="mark">U+{code:04X}</span>b'


def test_joiners_belong_to_the_spelling():
    assert visible("می\u200cخواهم") == "می\u200cخواهم"


def test_heaps_of_accents_are_taken_apart():
    shown = visible("a" + "\u0300" * 6)
    assert shown.count("\u0300") == 4 and shown.count("U+0300") == 2


def test_long_text_is_cut():
    assert visible("x" * 1_000, limit=10) == "x" * 10 + '<span class="mark">… 990 more</span>'
