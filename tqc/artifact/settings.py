"""What the files beside a model say about using it: where a text ends, how long it may be, how tokens are drawn.

Several files may say the same thing; docs/artifact.md tells which one counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import ArtifactError, TqcError

_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len")
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class Search:
    """How the model's authors draw tokens: `temperature` 0 takes the most probable one; None cuts nothing off."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True)
class Settings:
    """What the files say; None, empty or a default where they do not.

    `tokens` are texts of special tokens by their role (`bos_token`, …), `vocab_sizes` what each file names, by file.
    """

    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    context: int | None = None
    vocab_sizes: dict[str, int] = field(default_factory=dict)
    search: Search = Search()
    chat_template: str | None = None
    tokens: dict[str, str] = field(default_factory=dict)

    def check(self, vocab_size: int, error: type[TqcError] = ArtifactError) -> None:
        """Raises `error` unless the settings are those of a model with that vocabulary."""
        for file, found in self.vocab_sizes.items():
            if found != vocab_size:
                raise error(
                    "A settings file beside the model is that of another model",
                    where=f"{file}: vocab_size",
                    expected=f"{vocab_size}, as the logits have it",
                    found=str(found),
                    hint="put the model's own file there, or none",
                )
        for name, ids in (("eos_token_id", self.eos_ids), ("bos_token_id", (self.bos_id,))):
            if outside := [token for token in ids if token is not None and token >= vocab_size]:
                raise error(
                    "A special token is not in the model's vocabulary",
                    where=name,
                    expected=f"less than {vocab_size}",
                    found=", ".join(map(str, outside)),
                )


def read_settings(read: Callable[[str], str | None], error: type[TqcError] = ArtifactError) -> Settings:
    """The settings in the files that `read` gives by name (None: no such file).

    Raises `error`, naming file and entry, for files that are not JSON objects and entries of a wrong type.
    """
    files = {
        name: _Fields(name, read, error)
        for name in (
            "generation_config.json",
            "genai_config.json",
            "config.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "chat_template.json",
        )
    }
    generation, config = files["generation_config.json"], files["config.json"]
    genai = files["genai_config.json"].inside("model")
    text = config.inside("text_config")
    by_rank = (generation, genai, config, text)

    def first(get: Callable[[_Fields], Any], places: tuple[_Fields, ...]) -> Any:
        return next((value for place in places if (value := get(place)) is not None), None)

    bos = first(lambda place: place.ids("bos_token_id"), by_rank)
    pad = first(lambda place: place.ids("pad_token_id"), by_rank)
    roles = {role: first(lambda f, r=role: f.token(r), _tokenizers(files)) for role in _TOKENS}
    return Settings(
        bos_id=bos[0] if bos else None,
        eos_ids=first(lambda place: place.ids("eos_token_id"), by_rank) or (),
        pad_id=pad[0] if pad else None,
        context=genai.positive("context_length") or first(lambda f: first(f.positive, _CONTEXT), (config, text)),
        vocab_sizes={f.name: size for f in (genai, config, text) if (size := f.positive("vocab_size"))},
        search=first(_search, (generation, files["genai_config.json"].inside("search"))) or Search(),
        chat_template=_chat_template(read("chat_template.jinja"), files),
        tokens={role: found for role, found in roles.items() if found is not None},
    )


def _tokenizers(files: dict[str, _Fields]) -> tuple[_Fields, ...]:
    return files["tokenizer_config.json"], files["special_tokens_map.json"]


def _search(fields: _Fields) -> Search | None:
    drawn = fields.flag("do_sample")
    if not drawn:
        return None if drawn is None else Search()
    temperature, top_p = fields.number("temperature"), fields.number("top_p", most=1.0)
    return Search(
        temperature=1.0 if temperature is None else temperature,
        top_k=fields.count("top_k") or None,
        top_p=None if top_p in (None, 0.0, 1.0) else top_p,
    )


def _chat_template(jinja: str | None, files: dict[str, _Fields]) -> str | None:
    if jinja is not None:
        return jinja
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (template := files[name].template("chat_template")) is not None:
            return template
    return None


class _Fields:
    """The entries of a JSON object, checked as they are read."""

    def __init__(
        self,
        name: str,
        read: Callable[[str], str | None] | None,
        error: type[TqcError],
        values: dict[str, Any] | None = None,
    ) -> None:
        self.name, self.error = name, error
        self.values = self._load(read) if values is None else values

    def _load(self, read: Callable[[str], str | None]) -> dict[str, Any]:
        text = read(self.name)
        if text is None:
            return {}
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.error("A settings file is not JSON", where=self.name, found=str(error)) from error
        if not isinstance(found, dict):
            raise self.error(
                "A settings file is not understood", where=self.name, expected="an object", found=text[:80]
            )
        return found

    def _get(self, key: str, expected: str, fits: Callable[[Any], bool]) -> Any:
        value = self.values.get(key)
        if value is not None and not fits(value):
            raise self.error(
                "A settings file is not understood", where=f"{self.name}: {key}", expected=expected, found=repr(value)
            )
        return value

    def inside(self, key: str) -> _Fields:
        """The object under `key`, empty if there is none."""
        found = self._get(key, "an object", lambda value: isinstance(value, dict))
        return _Fields(f"{self.name}: {key}", None, self.error, found or {})

    def ids(self, key: str) -> tuple[int, ...] | None:
        """An id or a list of them; negative ones, which some write for none, are left out."""

        def fits(value: Any) -> bool:
            return all(_is_int(entry) for entry in (value if isinstance(value, list) else [value]))

        found = self._get(key, "a token id or a list of them", fits)
        if found is None:
            return None
        return tuple(token for token in (found if isinstance(found, list) else [found]) if token >= 0) or None

    def positive(self, key: str) -> int | None:
        return self._get(key, "a number of tokens above 0", lambda value: _is_int(value) and value > 0)

    def count(self, key: str) -> int | None:
        return self._get(key, "a whole number, 0 or more", lambda value: _is_int(value) and value >= 0)

    def flag(self, key: str) -> bool | None:
        return self._get(key, "true or false", lambda value: isinstance(value, bool))

    def number(self, key: str, most: float = math.inf) -> float | None:
        def fits(value: Any) -> bool:
            return (_is_int(value) or isinstance(value, float)) and 0 <= value <= most and math.isfinite(value)

        found = self._get(key, f"a number from 0 to {most:g}", fits)
        return None if found is None else float(found)

    def token(self, key: str) -> str | None:
        """A special token: its text, or an object with the text in `content`."""
        found = self._get(key, "a token's text", lambda v: isinstance(v.get("content") if _is_object(v) else v, str))
        return found["content"] if _is_object(found) else found

    def template(self, key: str) -> str | None:
        """A template, or the one named `default` of a list of named templates."""

        def fits(value: Any) -> bool:
            named = value if isinstance(value, list) else [{"name": "default", "template": value}]
            return all(_is_object(v) and isinstance(v.get("template"), str) and "name" in v for v in named)

        found = self._get(key, "a template or a list of named templates", fits)
        if isinstance(found, list):
            return next((entry["template"] for entry in found if entry["name"] == "default"), None)
        return found


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)
