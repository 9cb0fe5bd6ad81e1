from __future__ import annotations

from tqc.eval.texts import paragraphs, prose

DOCUMENT = """\
The "assert" statement
**********************

Assert statements are a convenient way to insert debugging *assertions* into a
program, and the "assert" keyword starts one of them.

   assert_stmt ::= "assert" expression

The simple form below is indented and therefore code, however many words it holds:

   if __debug__:
       if not expression: raise AssertionError and many more words than twelve are in here.

Short line.
"""


def test_headings_grammar_and_code_are_left_out():
    assert paragraphs(DOCUMENT) == [
        "Assert statements are a convenient way to insert debugging assertions into a program, and the assert keyword "
        "starts one of them.",
        "The simple form below is indented and therefore code, however many words it holds:",
    ]


def test_there_is_enough_prose_on_every_python():
    text = prose()
    assert len(text.split()) > 20_000
    letters = sum(character.isalpha() or character.isspace() for character in text)
    assert letters / len(text) > 0.9
    assert not any(mark in text for mark in (">>>", "::=", "**", "\n\n\n"))
