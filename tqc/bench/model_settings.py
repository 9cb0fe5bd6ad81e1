"""What to measure of a whole model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tqc.errors import TqcError

PAUSE_SECONDS = 0.15


@dataclass(frozen=True)
class Settings:
    """What to measure: `repeats` turns of `new_tokens` counted steps at each context and batch, and as many prompts of
    `prompt` tokens. A context is the tokens of each sequence when its steps are done; without any, an eighth to all of
    what every engine takes."""

    contexts: Sequence[int] = ()
    batches: Sequence[int] = (1,)
    new_tokens: int = 16
    repeats: int = 5
    prompt: int = 512
    pause: float = PAUSE_SECONDS

    def __post_init__(self) -> None:
        """Raises TqcError for values that make no sense for any model."""
        numbers = (*self.contexts, *self.batches, self.new_tokens, self.repeats, self.prompt)
        if not self.batches or min(numbers) < 1:
            raise TqcError(
                "an option is out of range",
                where="--contexts, --batch, --new-tokens, --repeats, --prompt",
                expected="numbers of 1 or more",
                found=", ".join(map(str, numbers)),
            )

    @property
    def steps(self) -> int:
        """Tokens that a cell's steps add: in each turn one that is not counted comes first."""
        return self.repeats * (self.new_tokens + 1)

    def contexts_for(self, limit: int | None) -> list[int]:
        """The contexts, ascending. Raises TqcError if one is too short for its steps or longer than `limit`."""
        if not self.contexts and limit is None:
            raise TqcError("no engine says how long a sequence may be", hint="name contexts with --contexts")
        contexts = sorted(set(self.contexts or (limit // 8, limit // 4, limit // 2, limit)))
        if not self.contexts:
            contexts = [context for context in contexts if context > self.steps] or contexts[-1:]
        if contexts[0] <= self.steps or (limit is not None and contexts[-1] > limit):
            raise TqcError(
                "a context cannot be measured",
                where="--contexts",
                expected=f"more than {self.steps} tokens, which the steps add, and at most "
                f"{limit if limit is not None else 'what the models take'}",
                found=", ".join(map(str, contexts)),
                hint="choose other --contexts, or fewer --new-tokens or --repeats",
            )
        return contexts
