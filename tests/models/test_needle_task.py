from __future__ import annotations

import numpy as np
import pytest

from tqc.models import needle_task
from tqc.models.needle_task import Needle


def text(ids: np.ndarray) -> str:
    return bytes(ids.astype(np.uint8)).decode()


def make(length=2000, depths=(0.0, 0.5, 1.0), seed=0, **options):
    return needle_task.prompt(length, depths, np.random.default_rng(seed), **options)


def test_a_needle_reads_as_question_and_answer():
    needle = Needle("kelmor", ("4821", "0937"))
    assert (needle.question, needle.answer, needle.text) == ("[kelmor=", "4821,0937]", "[kelmor=4821,0937]")
    assert len(Needle("kelmor", ("4821",)).text) == needle_task.NEEDLE_TOKENS


def test_a_prompt_has_the_length_asked_for_and_its_needles_at_their_depths():
    prompt = make()
    assert prompt.ids.shape == prompt.filler.shape == (2000,)
    haystack = text(prompt.ids[: prompt.haystack])
    room = len(haystack) - 6 * needle_task.NEEDLE_TOKENS
    assert [one.depth for one in sorted(prompt.asked, key=lambda one: one.depth)] == [0.0, 0.5, 1.0]
    for one in prompt.asked:
        at = haystack.index(one.needle.text)
        assert haystack.count(one.needle.question) == 1
        assert prompt.filler[:at].sum() == round(one.depth * room)


def test_what_follows_the_haystack_is_the_questions_and_their_answers():
    prompt = make(values=2)
    assert text(prompt.ids[prompt.haystack :]) == "".join(one.needle.text for one in prompt.asked)
    for one in prompt.asked:
        assert text(prompt.ids[one.answer]) == one.needle.answer
        assert len(one.needle.values) == 2


def test_the_filler_has_no_brackets_and_is_marked():
    prompt = make()
    filler = text(prompt.ids[prompt.filler])
    assert not set("[]=") & set(filler)
    assert text(prompt.ids[~prompt.filler][:1]) == "["
    assert len(filler) == 2000 - 9 * needle_task.NEEDLE_TOKENS


def test_a_lookalike_differs_in_one_letter_and_in_its_value():
    rng = np.random.default_rng(0)
    (needle,) = needle_task.invent(1, rng, 2)
    for _ in range(50):
        other = needle_task.lookalike(needle, rng)
        assert sum(a != b for a, b in zip(needle.key, other.key, strict=True)) == 1
        assert other.values != needle.values
        assert len(other.values) == 2


def test_every_needle_has_its_lookalikes():
    prompt = make(lookalikes=3)
    assert text(prompt.ids[: prompt.haystack]).count("[") == 12


def test_an_answer_counts_when_all_of_it_is_right():
    prompt = make()
    answers = [*prompt.ids[prompt.haystack + 1 :].tolist(), 0]
    assert prompt.correct(np.array(answers)) == [True, True, True]
    second = prompt.asked[1].answer
    answers[second.stop - 2 - prompt.haystack] += 1
    assert prompt.correct(np.array(answers)) == [True, False, True]


def test_the_same_seed_gives_the_same_prompt():
    assert (make(seed=1).ids == make(seed=1).ids).all()
    assert (make(seed=1).ids != make(seed=2).ids).any()


def test_reject_a_prompt_that_is_too_short():
    with pytest.raises(ValueError, match="need 117 tokens"):
        make(length=116)
    assert make(length=117).filler.sum() == 0
