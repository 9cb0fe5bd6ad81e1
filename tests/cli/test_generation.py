from __future__ import annotations

from tqc.cli.generation import Agreement, Request, agreement, open_model, run


def test_agreement_finds_the_differences(artifact, fake):
    model, request = open_model(artifact), Request("w1 w2 w3", 6)
    tokens = run(model, request).tokens
    assert agreement(model, request, tokens, tokens) == Agreement(6, 6, 6)
    wrong = (*tokens[:3], (tokens[3] + 1) % 30, *tokens[4:])
    history, matching = [1, 2, 3], 0
    for token in wrong:
        matching += fake.next_token(history) == token
        history.append(token)
    assert agreement(model, request, wrong, tokens) == Agreement(3, 6, matching)
    assert matching < 6


def test_drawn_tokens_are_only_compared_as_text(artifact):
    model, request = open_model(artifact), Request("w1", 4, temperature=2.0)
    tokens = run(model, request).tokens
    assert agreement(model, request, tokens, tokens[:2]) == Agreement(2, 4, None)


def test_each_run_starts_from_an_empty_cache(artifact):
    model, request = open_model(artifact), Request("w1 w2", 5)
    assert run(model, request).tokens == run(model, request).tokens
    assert model.session.length == (6,)
