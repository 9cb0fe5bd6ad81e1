from __future__ import annotations

import re

import numpy as np
import pytest

from tqc.errors import TqcError
from tqc.eval.retrieval import DEPTHS, TASKS, Haystack, TextTask, answers, score, text_tasks
from tqc.models.tiny import byte_tokenizer

PROSE = "The assert statement is a convenient way to insert debugging assertions into a program. " * 40


class Words:
    """A tokenizer of bytes, with special tokens around every text."""

    def __init__(self, before=(), after=()) -> None:
        self.before, self.after = list(before), list(after)

    def encode(self, text):
        return [*self.before, *text.encode(), *self.after]


class Reader:
    """A model that answers the questions of `text_tasks` from its prompt, `slips` of every three of them wrongly."""

    def __init__(self, slips: int = 0) -> None:
        self.slips, self.asked, self.fed = slips, 0, []

    def reset(self):
        self.fed = []

    def prefill(self, ids, *, all_logits=False):
        self.fed = list(ids)
        text = bytes(token for token in ids if token < 256).decode()
        name = re.findall(r"magic numbers? of (\w+)\?", text)[-1]
        found = re.findall(rf"The magic number of {name} is (\d+)\.", text)
        if self.asked % 3 < self.slips:
            found = found[::-1] if len(found) > 1 else ["0"]
        self.asked += 1
        self.answer = list((" " + ", ".join(found)).encode())
        return self._logits()

    def decode(self, ids):
        assert ids == [self.answer.pop(0)]
        return self._logits()

    def _logits(self):
        return np.eye(300)[None, self.answer[0]]


def text_of(task):
    return bytes(task.prompt).decode()


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", TASKS)
def test_prompts_have_their_length_and_the_needle_its_depth(name, depth):
    for task in text_tasks(Haystack(Words(), PROSE), name, 700, depth, 3):
        text = text_of(task)
        assert len(task.prompt) == 700
        assert text.endswith(task.question)
        assert (task.name, task.depth) == (name, depth)
        sentences = re.findall(r"\nThe magic number of \w+ is \d{5}\.\n", text)
        assert len(sentences) == {"needle": 1, "multi-key": 4, "multi-value": 3}[name]
        first = next(number for number in re.findall(r"\d+", task.answer))
        place = text.index(f"is {first}.") / text.index("\nQuestion")
        assert place == pytest.approx(depth, abs=0.35)


def test_the_same_seed_gives_the_same_tasks():
    stack = Haystack(Words(), PROSE)
    make = [list(text_tasks(stack, "multi-key", 600, 0.5, 2, seed=seed)) for seed in (0, 0, 1)]
    assert make[0] == make[1] != make[2]
    assert make[0][0].prompt != make[0][1].prompt


@pytest.mark.parametrize("name", TASKS)
def test_a_model_that_reads_answers_all_and_one_that_slips_not(name):
    tasks = list(text_tasks(Haystack(Words(), PROSE), name, 600, 0.5, 6))
    seen = []
    assert score(Reader(), tasks, seen.append) == 6
    assert seen == [1, 2, 3, 4, 5, 6]
    assert score(Reader(slips=1), tasks) == 4


def test_special_tokens_stand_around_the_whole_prompt_only():
    stack = Haystack(Words([256, 257], [258]), PROSE)
    task = next(text_tasks(stack, "needle", 502, 0.5, 1))
    assert task.prompt[:2] == [256, 257]
    assert len(task.prompt) == 502
    assert max(task.prompt[2:]) < 256
    assert bytes(task.prompt[2:]).decode().endswith(task.question)
    assert task.expected == list(task.answer.encode())


def test_a_real_tokenizer(tmp_path):
    tokenizer = byte_tokenizer()

    class Real:
        def encode(self, text):
            return tokenizer.encode(text).ids

    task = next(text_tasks(Haystack(Real(), PROSE), "needle", 500, 1.0, 1))
    assert tokenizer.decode(task.prompt).endswith(task.question)
    assert tokenizer.decode(task.expected) == task.answer


def test_a_wrong_last_token_is_wrong():
    task = TextTask("needle", 0.0, list(b"magic number of A? The magic number of A is 12."), list(b" 13"), "", "")
    assert not answers(Reader(), task)


@pytest.mark.parametrize("length", [50, 100_000])
def test_lengths_that_cannot_be_made_are_refused(length):
    with pytest.raises(TqcError, match="cannot be made"):
        list(text_tasks(Haystack(Words(), PROSE), "needle", length, 0.5, 1))


def test_unknown_tasks_are_refused():
    with pytest.raises(TqcError, match="unknown retrieval task"):
        list(text_tasks(Haystack(Words(), PROSE), "pin", 500, 0.5, 1))


def test_a_tokenizer_that_merges_across_the_question_is_refused():
    class Merging(Words):
        def encode(self, text):
            return [hash(text) % 1000, *text.encode()]

    with pytest.raises(TqcError, match="does not continue"):
        list(text_tasks(Haystack(Merging(), PROSE), "needle", 600, 0.5, 1))
