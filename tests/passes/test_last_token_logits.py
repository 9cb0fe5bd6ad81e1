"""Prefill multiplies one row a sequence with the vocabulary matrix."""

from outline import outline
from toy import toy_module

from tqc.passes.attach_cache import AttachCache
from tqc.passes.last_token_logits import LastTokenLogits


def test_the_row_is_taken_before_the_vocabulary_matmul():
    module = LastTokenLogits()(AttachCache()(toy_module()))
    assert outline(module["prefill"])[-4:] == [
        "%20 = add(%3, %19)",
        "%21 = tqc.last_token(%20, new_len)",
        "%22 = matmul(%21, lm_head)",
        "%23 = (%22, %16)",
    ]


def test_a_softcap_on_the_logits_is_applied_to_the_row():
    lines = outline(LastTokenLogits()(AttachCache()(toy_module(logit_cap=20.0)))["prefill"])
    taken = next(i for i, line in enumerate(lines) if "last_token" in line)
    assert [line.split(" = ")[1].split("(")[0] for line in lines[taken + 1 : -1]] == [
        "matmul",
        "divide",
        "tanh",
        "multiply",
    ]


def test_the_other_functions_keep_every_row():
    before = AttachCache()(toy_module())
    after = LastTokenLogits()(before)
    for name in ("decode", "prefill_all"):
        assert outline(after[name]) == outline(before[name])


def test_the_row_is_taken_before_a_quantized_vocabulary_matmul():
    lines = outline(LastTokenLogits()(AttachCache()(toy_module(quantized_head=True)))["prefill"])
    called = [line.split(" = ")[1].split("(")[0] for line in lines[-4:-1]]
    assert called == ["add", "tqc.last_token", "tqc.matmul_nbits"]
