"""Retrieval: prompts that ask for something said far back in them, and how often a model says it.

A task is token ids and the ids that must follow, so that any model and tokenizer can have its own. Those built here
hide sentences in prose, for a model with a tokenizer of text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tqc.errors import TqcError
from tqc.eval.forcing import Decoder

TASKS = ("needle", "multi-key", "multi-value")
DEPTHS = (0.0, 0.5, 1.0)
OTHERS = 3
"""Needles beside the one asked for in `multi-key`; values in `multi-value`."""
NAMES = (
    *("Amelia", "Boris", "Clara", "Dmitri", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jasper", "Karin", "Leo"),
    *("Maria", "Nils", "Olga", "Pablo", "Quentin", "Rosa", "Simon", "Tara", "Ulrich", "Vera", "Walter", "Xenia"),
)
DIGITS = 5


class Task(Protocol):
    """A prompt and what must follow it, as token ids."""

    @property
    def name(self) -> str: ...

    @property
    def depth(self) -> float:
        """Where the needle lies: 0 the start, 1 the end."""

    @property
    def prompt(self) -> Sequence[int]: ...

    @property
    def expected(self) -> Sequence[int]: ...


class Tokenizer(Protocol):
    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class TextTask:
    """A needle in prose; `question` and `answer` are what the ids say."""

    name: str
    depth: float
    prompt: list[int]
    expected: list[int]
    question: str = field(compare=False)
    answer: str = field(compare=False)


def answers(session: Decoder, task: Task) -> bool:
    """Whether greedy decoding writes exactly the expected ids after the prompt; empties the cache first.

    Stops at the first wrong token.
    """
    session.reset()
    logits = session.prefill([int(token) for token in task.prompt])
    for number, token in enumerate(task.expected):
        if int(np.asarray(logits).reshape(-1, np.shape(logits)[-1])[-1].argmax()) != int(token):
            return False
        if number + 1 < len(task.expected):
            logits = session.decode([int(token)])
    return True


def score(session: Decoder, tasks: Sequence[Task], progress: Callable[[int], None] | None = None) -> int:
    """How many of the tasks the model answers. `progress` is called with the tasks done."""
    correct = 0
    for done, task in enumerate(tasks, 1):
        correct += answers(session, task)
        if progress:
            progress(done)
    return correct


class Haystack:
    """Prose as token ids, with what a tokenizer puts around every text set apart."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        """Raises TqcError when the tokenizer writes something between a text and what continues it."""
        self._encode = tokenizer.encode
        self._before, self._after = self._around()
        self._ids = self.inner(text)

    def _around(self) -> tuple[int, int]:
        """How many special tokens stand before and after a text: those that differ from text to text are its own."""
        one, other = self._encode("3"), self._encode("4")
        same = [a == b for a, b in zip(one, other, strict=False)]
        before = same.index(False) if False in same else 0
        after = next((i for i, (a, b) in enumerate(zip(one[::-1], other[::-1], strict=False)) if a != b), 0)
        return before, after

    def inner(self, text: str) -> list[int]:
        """The ids of a text without special tokens."""
        ids = self._encode(text)
        return ids[self._before : len(ids) - self._after]

    @property
    def start(self) -> list[int]:
        """The special tokens before a text."""
        return self._encode("3")[: self._before]

    def prompt(self, length: int, needles: Sequence[tuple[float, str]], question: str) -> list[int]:
        """Exactly `length` ids: prose with a sentence of `needles` at each (depth, sentence), then the question.

        Raises TqcError when needles and question alone are longer, or the prose is too short.
        """
        placed = [(depth, self.inner(f"\n{sentence}\n")) for depth, sentence in sorted(needles, key=lambda n: n[0])]
        end = self.inner(f"\n{question}")
        room = length - len(self.start) - len(end) - sum(len(ids) for _, ids in placed)
        if room < 0 or room > len(self._ids):
            raise TqcError(
                "a prompt of this length cannot be made",
                where=f"{len(needles)} needles",
                expected=f"{length - room} to {length - room + len(self._ids)} tokens",
                found=f"{length} tokens",
                hint="choose other --lengths, or a longer --text",
            )
        made, at = self.start, 0
        for depth, ids in placed:
            upto = round(depth * room)
            made = made + self._ids[at:upto] + ids
            at = upto
        return made + self._ids[at:room] + end

    def answer(self, question: str, answer: str) -> list[int]:
        """The ids of `answer` behind `question`. Raises TqcError if they change those of the question itself."""
        asked, both = self.inner(f"\n{question}"), self.inner(f"\n{question}{answer}")
        if both[: len(asked)] != asked or len(both) == len(asked):
            raise TqcError("the tokenizer does not continue a text where it ended", where=repr(question[-20:] + answer))
        return both[len(asked) :]


def text_tasks(
    haystack: Haystack, name: str, length: int, depth: float, count: int, seed: int = 0
) -> Iterator[TextTask]:
    """`count` tasks of one of `TASKS` with prompts of `length` tokens; the same arguments give the same tasks.

    `needle`: one number at `depth`. `multi-key`: the numbers of other names as well, at random depths. `multi-value`:
    several numbers of one name, the first at `depth`, the others behind it, all to be listed in their order.
    """
    if name not in TASKS:
        raise TqcError("unknown retrieval task", expected=", ".join(TASKS), found=name)
    random = np.random.default_rng([seed, TASKS.index(name), length, round(1000 * depth)])
    for _ in range(count):
        names = [str(other) for other in random.choice(NAMES, OTHERS + 1, replace=False)]
        numbers = [str(number) for number in random.integers(10 ** (DIGITS - 1), 10**DIGITS, OTHERS + 1)]
        places = [float(place) for place in random.random(OTHERS)]
        needles = [(depth, _sentence(names[0], numbers[0]))]
        wanted, subject = numbers[:1], f"The magic number of {names[0]} is"
        if name == "multi-key":
            needles += [(at, _sentence(*other)) for at, *other in zip(places, names[1:], numbers[1:], strict=True)]
        elif name == "multi-value":
            behind = sorted(depth + (1 - depth) * at for at in places[: OTHERS - 1])
            wanted, subject = numbers[:OTHERS], f"The magic numbers of {names[0]} are, in this order:"
            needles = [(at, _sentence(names[0], number)) for at, number in zip([depth, *behind], wanted, strict=True)]
        question, answer = _question(names[0], len(wanted), subject), " " + ", ".join(wanted)
        yield TextTask(
            name, depth, haystack.prompt(length, needles, question), haystack.answer(question, answer), question, answer
        )


def _sentence(name: str, number: str) -> str:
    return f"The magic number of {name} is {number}."


def _question(name: str, count: int, subject: str) -> str:
    asked = f"What is the magic number of {name}?" if count == 1 else f"What are all {count} magic numbers of {name}?"
    return f"Question: {asked}\nAnswer: {subject}"
