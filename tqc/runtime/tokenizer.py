"""Text to tokens and back, with the tokenizer files an artifact carries."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from ..artifact.manifest import Manifest
from ..errors import ArtifactError, SessionError

UNFINISHED = "\ufffd"
"""What a decoder gives for bytes that do not make a character yet."""


class TextTokenizer:
    """The tokenizer of the artifact in `folder`. Only files the manifest lists, and so vouches for, are read.

    Raises SessionError when the artifact has no tokenizer.json, ArtifactError when a file cannot be understood.
    """

    def __init__(self, folder: str | Path, manifest: Manifest) -> None:
        self._folder, self._files = Path(folder), frozenset(manifest.files)
        if "tokenizer.json" not in self._files:
            raise SessionError(
                "The artifact has no tokenizer",
                where=str(folder),
                expected="tokenizer.json",
                hint="put it beside the ONNX file and compile again, or use token ids through tqc.load",
            )
        try:
            self._tokenizer = Tokenizer.from_str(self._text("tokenizer.json"))
        except Exception as error:  # the library raises plain Exception
            raise ArtifactError("The tokenizer is not understood", where="tokenizer.json", found=str(error)) from error

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with the special tokens the tokenizer puts around one."""
        return self._tokenizer.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self._tokenizer.decode(list(ids))

    def chat(self, message: str) -> list[int]:
        """Token ids of a conversation that starts with a user's `message` and expects the answer next.

        Raises SessionError when the artifact has no chat template or Jinja2 is not installed.
        """
        template = self._template()
        if template is None:
            raise SessionError("The artifact has no chat template", where=str(self._folder), hint="leave --chat out")
        try:
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise SessionError("Chat templates need Jinja2", hint="pip install jinja2") from error
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        settings = self._json("tokenizer_config.json")
        try:
            text = environment.from_string(template).render(
                messages=[{"role": "user", "content": message}],
                add_generation_prompt=True,
                **{name: _token_text(settings.get(name)) for name in ("bos_token", "eos_token")},
            )
        except TemplateError as error:
            raise SessionError("The chat template cannot be used", found=str(error), hint="leave --chat out") from error
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a text, from the generation settings, else the model's, else the tokenizer's."""
        for name in ("generation_config.json", "config.json"):
            ids = self._json(name).get("eos_token_id")
            if ids is not None:
                return frozenset(ids if isinstance(ids, list) else [ids])
        token = self._tokenizer.token_to_id(_token_text(self._json("tokenizer_config.json").get("eos_token")))
        return frozenset() if token is None else frozenset([token])

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Pieces of text as the ids come in; a piece never ends inside a character."""
        seen: list[int] = []
        # Tokens before `context` are settled; those from there to `said` are decoded again, because what a token
        # looks like can depend on the one before it.
        context = said = 0
        for token in ids:
            seen.append(token)
            before, now = self.decode(seen[context:said]), self.decode(seen[context:])
            if len(now) > len(before) and not now.endswith(UNFINISHED):
                yield now[len(before) :]
                context, said = said, len(seen)
        before, now = self.decode(seen[context:said]), self.decode(seen[context:])
        if len(now) > len(before):
            yield now[len(before) :]

    def _template(self) -> str | None:
        if "chat_template.jinja" in self._files:
            return self._text("chat_template.jinja")
        template = self._json("tokenizer_config.json").get("chat_template")
        return template if isinstance(template, str) else None

    def _text(self, name: str) -> str:
        return (self._folder / name).read_text(encoding="utf-8")

    def _json(self, name: str) -> dict:
        if name not in self._files:
            return {}
        try:
            value = json.loads(self._text(name))
        except ValueError as error:
            raise ArtifactError("A tokenizer file is not JSON", where=name, found=str(error)) from error
        return value if isinstance(value, dict) else {}


def _token_text(token: object) -> str:
    """Special tokens are stored as text or as an object with the text in `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
