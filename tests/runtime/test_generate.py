from __future__ import annotations

import numpy as np
import pytest

import tqc
from tqc.errors import SessionError


def continuation(fake, prompt, count):
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(fake.next_token(tokens))
    return tokens[len(prompt) :]


@pytest.fixture
def session(sum_artifact):
    return tqc.load(sum_artifact)


def test_greedy_is_the_most_probable_token_each_step(session, fake):
    tokens = session.generate([1, 2, 3], 40)
    assert list(tokens) == continuation(fake, [1, 2, 3], 40)
    assert session.length == (42,), "the last token is not in the cache"


def test_it_goes_on_where_the_cache_ends(session, fake):
    first = list(session.generate([1, 2, 3], 4))
    again = list(session.generate([first[-1], 9], 4))
    assert again == continuation(fake, [1, 2, 3, *first, 9], 4)


def test_batch_with_stop_tokens(sum_artifact, fake):
    prompts = [[1, 2, 3], [9]]
    full = [continuation(fake, prompt, 12) for prompt in prompts]
    stop = full[1][4]
    session = tqc.load(sum_artifact, batch=2)
    steps = list(session.generate(prompts, 12, stop=[stop]))
    for number, tokens in enumerate(full):
        end = tokens.index(stop) + 1 if stop in tokens else 12
        assert [step[number] for step in steps] == (tokens[:end] + [None] * 12)[: len(steps)]
        assert session.length[number] == len(prompts[number]) + end - 1


def test_stops_when_all_have_stopped(session, fake):
    stop = continuation(fake, [1, 2, 3], 3)[-1]
    assert list(session.generate([1, 2, 3], 40, stop=[stop]))[-1] == stop
    assert session.length[0] < 20


def test_the_seed_decides(sum_artifact):
    def run(seed, rows=([1, 2],)):
        session = tqc.load(sum_artifact, batch=len(rows))
        steps = session.generate(list(rows) if len(rows) > 1 else rows[0], 20, temperature=8.0, seed=seed)
        return [tokens if isinstance(tokens, int) else tokens[0] for tokens in steps]

    assert run(1) == run(1) != run(2)
    assert run(1) == run(1, rows=([1, 2], [5])), "a neighbour changes nothing"


def test_padding(session, fake):
    ids = np.array([[0, 0, 4, 5]])
    assert list(session.generate(ids, 3, attention_mask=ids > 0)) == continuation(fake, [4, 5], 3)


def test_refused_when_called_not_when_asked_for_tokens(session):
    with pytest.raises(SessionError, match="too small"):
        session.generate([1] * 60, 6)
    with pytest.raises(SessionError, match="nothing to generate"):
        session.generate([1], 0)
    with pytest.raises(SessionError, match="out of range"):
        session.generate([1], 1, temperature=-1.0)
    with pytest.raises(SessionError, match="seed is out of range"):
        session.generate([1], 1, seed=-1)
    assert session.length == (0,)
    assert len(list(session.generate([1] * 60, 5))) == 5
