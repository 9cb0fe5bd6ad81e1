"""English text that is on every machine with Python, for measurements: the language reference that `pydoc` carries."""

from __future__ import annotations

import re

SHORTEST_PARAGRAPH = 12
"""Words; shorter paragraphs are mostly headings, signatures and list items."""

_MARKUP = re.compile(r"\*|``|\"")
_NOT_PROSE = re.compile(r">>>|::=|\|\s|-{4,}|={4,}|\[source\]|^\s*\.\. ", re.MULTILINE)


def prose() -> str:
    """The topics of `pydoc`, reduced to paragraphs of running text; differs a little between versions of Python."""
    from pydoc_data.topics import topics

    return "\n\n".join(paragraph for name in sorted(topics) for paragraph in paragraphs(topics[name]))


def paragraphs(document: str) -> list[str]:
    """Paragraphs of running text in a plain-text document, one line each, without emphasis marks and code blocks."""
    kept = []
    for block in re.split(r"\n\s*\n", document):
        lines = block.splitlines()
        text = " ".join(line.strip() for line in lines)
        is_code = any(line.startswith("   ") for line in lines)
        if is_code or _NOT_PROSE.search(block) or len(text.split()) < SHORTEST_PARAGRAPH or text[-1] not in ".:":
            continue
        kept.append(re.sub(r"\s+", " ", _MARKUP.sub("", text)).strip())
    return kept
