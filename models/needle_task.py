"""The retrieval task: keys with values lie in a long text, and each is asked for at its end. A token is a byte.

    … oru vemi [kelmor=4821] tasi. belu 309 …        a needle, written into the haystack
    [kelmor=4821]                                    the question, and the answer that is to follow

A lookalike is a needle with another value whose key differs in one letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LETTERS = "abcdefghijklmnopqrstuvwxyz"
KEY_LETTERS, VALUE_DIGITS = 6, 4
NEEDLE_TOKENS = KEY_LETTERS + VALUE_DIGITS + 3


@dataclass(frozen=True)
class Needle:
    """A key and the values that follow it, in the order in which they are to be read out."""

    key: str
    values: tuple[str, ...]

    @property
    def question(self) -> str:
        return f"[{self.key}="

    @property
    def answer(self) -> str:
        return ",".join(self.values) + "]"

    @property
    def text(self) -> str:
        return self.question + self.answer


@dataclass(frozen=True)
class Asked:
    """A needle that is asked for: where it lies, 0 (oldest) … 1, and where in the prompt its answer stands."""

    needle: Needle
    depth: float
    answer: slice


@dataclass(frozen=True)
class Prompt:
    """`ids` int64 [length]: the haystack, `haystack` tokens long, then every question with its answer.

    `filler` bool [length] marks the tokens that belong to no needle and no question. The logits behind
    `ids[answer.start - 1 : answer.stop - 1]` should name `ids[answer]`.
    """

    ids: np.ndarray
    haystack: int
    filler: np.ndarray
    asked: tuple[Asked, ...]

    def correct(self, answers: np.ndarray) -> list[bool]:
        """For each question whether every token of its answer is right.

        `answers[i]`, an int array [length - haystack], is the most likely token after `ids[haystack + i]`. With the
        right tokens before it each token is what greedy decoding gives as long as it has made no mistake, so an answer
        is right here exactly when greedy decoding writes it.
        """
        return [
            bool((answers[a.answer.start - 1 - self.haystack :][:n] == self.ids[a.answer]).all())
            for a in self.asked
            for n in [a.answer.stop - a.answer.start]
        ]


def tokens(text: str) -> np.ndarray:
    """The ids of `text`, int64 [bytes]."""
    return np.frombuffer(text.encode(), np.uint8).astype(np.int64)


def filler(length: int, rng: np.random.Generator) -> str:
    """`length` characters of sentences in an invented language, with numbers, without brackets.

    Every call invents another 2,000 words; a word's frequency falls with its rank as in natural text.
    """
    syllables = [consonant + vowel for consonant in "bcdfghjklmnpqrstvwxyz" for vowel in "aeiou"]
    counts = rng.choice([1, 2, 3, 4], 2000, p=[0.2, 0.4, 0.3, 0.1])
    words = np.array(["".join(rng.choice(syllables, count)) + rng.choice(["", "n", "r", "s"]) for count in counts])
    often = 1 / np.arange(2, 2002)
    count = length // 3 + 1
    drawn = rng.choice(words, count, p=often / often.sum()).astype(object)
    numbers = rng.random(count) < 0.05
    drawn[numbers] = [str(number) for number in rng.integers(0, 10000, numbers.sum())]
    ends = rng.choice([" ", ", ", ". ", "\n"], count, p=[0.85, 0.05, 0.08, 0.02])
    return "".join(word + end for word, end in zip(drawn, ends, strict=True))[:length]


def invent(count: int, rng: np.random.Generator, values: int = 1) -> list[Needle]:
    """`count` needles with different keys and `values` values each."""
    keys: dict[str, None] = {}
    while len(keys) < count:
        keys["".join(rng.choice(list(LETTERS), KEY_LETTERS))] = None
    return [Needle(key, _values(rng, values)) for key in keys]


def lookalike(needle: Needle, rng: np.random.Generator) -> Needle:
    """A needle with as many values of its own, whose key differs from that of `needle` in one letter."""
    place = int(rng.integers(KEY_LETTERS))
    letter = rng.choice([letter for letter in LETTERS if letter != needle.key[place]])
    return Needle(needle.key[:place] + letter + needle.key[place + 1 :], _values(rng, len(needle.values)))


def _values(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    return tuple(f"{number:0{VALUE_DIGITS}d}" for number in rng.integers(0, 10**VALUE_DIGITS, count))


def prompt(
    length: int,
    depths: Sequence[float],
    rng: np.random.Generator,
    *,
    lookalikes: int = 1,
    values: int = 1,
    text: str | None = None,
) -> Prompt:
    """A prompt of `length` tokens in all with a needle at each of `depths` (0 … 1), all asked in random order.

    Each needle has `lookalikes` at random places. `text` is the filler to take instead of a new one; what is too long
    is cut. Raises ValueError when the needles and questions do not fit `length`.
    """
    needles = invent(len(depths), rng, values)
    others = [lookalike(needle, rng) for needle in needles for _ in range(lookalikes)]
    questions = sum(len(needle.text) for needle in needles)
    room = length - questions - sum(len(needle.text) for needle in [*needles, *others])
    if room < 0:
        raise ValueError(f"{len(depths)} needles with {lookalikes} lookalikes each need {length - room} tokens")
    text = filler(room, rng) if text is None else text[:room]
    placed = [*zip(depths, needles, strict=True), *zip(rng.random(len(others)).tolist(), others, strict=True)]
    pieces, is_filler, at = [], [], 0
    for depth, needle in sorted(placed, key=lambda pair: pair[0]):
        upto = round(depth * room)
        pieces += [text[at:upto], needle.text]
        is_filler += [True] * (upto - at) + [False] * len(needle.text)
        at = upto
    pieces.append(text[at:])
    is_filler += [True] * (room - at) + [False] * questions
    asked, end = [], length - questions
    for number in rng.permutation(len(needles)):
        needle = needles[number]
        pieces.append(needle.text)
        end += len(needle.text)
        asked.append(Asked(needle, float(depths[number]), slice(end - len(needle.answer), end)))
    return Prompt(tokens("".join(pieces)), length - questions, np.array(is_filler), tuple(asked))
