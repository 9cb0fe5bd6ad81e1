"""The command line as the manifest records it: the same for the same work, wherever the files lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_NO_EFFECT = frozenset({"output", "force", "dump_dir", "progress", "json"})


def command_line(verb: str, source: str | Path, options: Mapping[str, object]) -> tuple[str, ...]:
    """`tqc VERB NAME --option value …` in the order of `options`.

    Folders of paths, options without effect on the result (`output`, `force`, `dump_dir`, `progress`) and options that
    are None or False are left out; True is a bare flag; sequences are joined with commas.
    """
    words = ["tqc", verb, Path(source).name]
    for name, value in options.items():
        if name in _NO_EFFECT or value is None or value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(_word(value))
    return tuple(words)


def _word(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(_word(part) for part in value)
    return value.name if isinstance(value, Path) else str(value)
