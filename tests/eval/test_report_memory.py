from __future__ import annotations

from report_data import WEIGHTS, layer, manifest

from tqc.eval.report_memory import CONTEXTS, GB, GPUS, cache_bytes, fits, fp16_bytes, lengths

TAIL = 4 * 3 * 3 * 64 * 64 * 4
PAGE = 4 * 64 * 2 * 3 * 34


def test_bytes_are_whole_pages_and_what_is_always_there():
    compiled = manifest()
    assert cache_bytes(compiled, 4) == TAIL
    assert cache_bytes(compiled, 5) == cache_bytes(compiled, 4 + 64) == TAIL + PAGE
    assert cache_bytes(compiled, 4 + 65) == TAIL + 2 * PAGE
    assert fp16_bytes(compiled, 10) == 10 * 4 * 2 * 2 * 3 * 64


def test_what_fits_is_what_fits_beside_the_weights():
    for compiled in (manifest(), manifest([layer("tq3", "tq2", 3, 2)] * 4)):
        for fit, (_, gigabytes) in zip(fits(compiled), GPUS, strict=True):
            assert fit.left == gigabytes * GB - WEIGHTS
            assert cache_bytes(compiled, fit.tokens) <= fit.left < cache_bytes(compiled, fit.tokens + 1)
            assert fp16_bytes(compiled, fit.fp16_tokens) <= fit.left < fp16_bytes(compiled, fit.fp16_tokens + 1)


def test_weights_that_do_not_fit_leave_nothing():
    compiled = manifest()
    huge = compiled.files | {"params.safetensors": compiled.files["params.safetensors"].model_copy(
        update={"size": 50 * GB})}  # fmt: skip
    found = fits(manifest(files=huge))
    assert [(fit.tokens > 0, fit.fp16_tokens > 0) for fit in found] == [(False, False)] * 2 + [(True, True)] * 3


def test_lengths_reach_from_1024_to_the_largest_gpu():
    drawn = lengths([manifest()])
    assert drawn[0] == 1024
    assert drawn[-1] == 1 << 24
    assert set(CONTEXTS) <= set(drawn)
    wide = manifest([layer(bytes_per_token_k=200_000, bytes_per_token_v=200_000)] * 4)
    assert max(fit.tokens for fit in fits(wide)) <= lengths([wide])[-1]
