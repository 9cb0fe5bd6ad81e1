"""Text to tokens and back, with the tokenizer files an artifact carries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from ..artifact.manifest import Manifest
from ..artifact.settings import Settings, read_settings
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
        template = self.settings.chat_template
        if template is None:
            raise SessionError("The artifact has no chat template", where=str(self._folder), hint="leave --chat out")
        try:
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise SessionError("Chat templates need Jinja2", hint="pip install jinja2") from error
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )

        def refuse(message: str) -> None:
            raise TemplateError(message)

        try:
            text = environment.from_string(template).render(
                messages=[{"role": "user", "content": message}],
                add_generation_prompt=True,
                raise_exception=refuse,
                **{"bos_token": "", "eos_token": "", **self.settings.tokens},
            )
        except TemplateError as error:
            raise SessionError("The chat template cannot be used", found=str(error), hint="leave --chat out") from error
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    @cached_property
    def settings(self) -> Settings:
        """What the artifact's files say about the model's use. Raises ArtifactError for files that are damaged."""
        return read_settings(self._text)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a text: those the settings name, else the tokenizer's own `eos_token`."""
        if self.settings.eos_ids:
            return frozenset(self.settings.eos_ids)
        token = self._tokenizer.token_to_id(self.settings.tokens.get("eos_token", ""))
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

    def _text(self, name: str) -> str | None:
        """A file's text, None for one that the manifest does not list."""
        return (self._folder / name).read_text(encoding="utf-8") if name in self._files else None
