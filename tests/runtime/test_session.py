from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import psutil
import pytest

import tqc
from tqc.artifact import Library
from tqc.errors import ArtifactError, SessionError
from tqc.runtime import library
from tqc.runtime.device import CpuDevice


@pytest.fixture
def session(sum_artifact):
    return tqc.load(sum_artifact)


@pytest.fixture
def pair(sum_artifact):
    return tqc.load(sum_artifact, batch=2, max_context=40, prefill_chunk=8)


def history(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 31, length).tolist()


def test_prefill_and_decode(session, fake):
    ids = history(0, 20)
    logits = session.prefill(ids)
    assert logits.shape == (1, 32)
    assert logits.dtype == np.float32
    assert logits.argmax() == fake.next_token(ids)
    assert session.decode([3]).argmax() == fake.next_token([*ids, 3])
    assert session.decode(5).shape == (1, 32)
    assert session.length == (22,)


def test_logits_are_float32_whatever_the_model_gives(session, monkeypatch):
    download = CpuDevice.download
    monkeypatch.setattr(CpuDevice, "download", lambda *tensor: download(*tensor).clip(-6e4, 6e4).astype(np.float16))
    assert session.prefill([1, 2]).dtype == np.float32
    assert session.decode([3]).dtype == np.float32
    assert session.prefill([4, 5], all_logits=True)[0].dtype == np.float32


def test_the_state_is_read_as_a_copy(pair):
    pair.prefill([history(1, 27), history(2, 6)])
    sinks, codes = pair.read_state(0, "sink_k"), pair.read_state(0, "k_codes")
    assert (sinks.shape, codes.shape[1:], codes.dtype) == ((2, 1, 16, 16), (1, 64), np.uint16)
    held = pair.page_table
    assert codes[held[0][0]].any()
    codes[:] = held[:] = 0
    assert pair.read_state(0, "k_codes").any()
    assert pair.page_table.any()
    with pytest.raises(SessionError, match="no such tensor"):
        pair.read_state(0, "k_mean")


def test_ragged_batch_in_chunks_equals_each_alone(pair, fake):
    rows = [history(1, 27), history(2, 6)]
    assert pair.prefill(rows).argmax(-1).tolist() == [fake.next_token(row) for row in rows]
    assert pair.length == (27, 6)
    rows = [[*rows[0], 4], [*rows[1], 9]]
    assert pair.decode([4, 9]).argmax(-1).tolist() == [fake.next_token(row) for row in rows]
    more = [history(3, 2), history(4, 30)]
    assert pair.prefill(more).argmax(-1).tolist() == [fake.next_token(a + b) for a, b in zip(rows, more, strict=True)]
    used = pair._pages.table[0][:2].tolist() + pair._pages.table[1][:3].tolist()
    assert len(set(used)) == 5, "pages of the two sequences do not overlap"


def test_all_logits(pair, fake):
    rows = [history(1, 19), history(2, 3)]
    logits = pair.prefill(rows, all_logits=True)
    assert [part.shape for part in logits] == [(19, 32), (3, 32)]
    for row, part in zip(rows, logits, strict=True):
        assert part.argmax(-1).tolist() == [fake.next_token(row[: i + 1]) for i in range(len(row))]


def test_padding_does_not_matter(pair, sum_artifact):
    left = np.array([[0, 0, 1, 2], [3, 4, 5, 6]])
    right = np.array([[1, 2, 0, 0], [3, 4, 5, 6]])
    expected = tqc.load(sum_artifact, batch=2).prefill([[1, 2], [3, 4, 5, 6]])
    np.testing.assert_array_equal(pair.prefill(left, left > 0), expected)
    pair.reset()
    np.testing.assert_array_equal(pair.prefill(right, right > 0), expected)
    assert pair.length == (2, 4)


def test_reset_starts_over_in_the_same_buffers(pair, fake):
    pointers = pair.state_pointers()
    pair.prefill([history(1, 30), history(2, 30)])
    pair.reset()
    assert pair.length == (0, 0)
    rows = [history(3, 21), history(4, 25)]
    assert pair.prefill(rows).argmax(-1).tolist() == [fake.next_token(row) for row in rows]
    assert pair.state_pointers() == pointers


def test_buffers_stay_and_memory_does_not_grow(session):
    pointers, process = session.state_pointers(), psutil.Process()
    session.prefill([1])

    def steps(count):
        for step in range(count):
            if session.length[0] == session.max_context:
                session.reset()
            session.decode([step % 31])
        return process.memory_info().rss

    before = steps(300)
    assert steps(1000) - before < 2 << 20
    assert session.state_pointers() == pointers


def test_every_step_reads_the_same_memory(session, monkeypatch):
    calls = []
    function = session._function

    def watched(name):
        run = function(name)
        return lambda *arguments: calls.append([x.data_ptr() for x in arguments[:4]]) or run(*arguments)

    monkeypatch.setattr(session, "_function", watched)
    session.prefill([1, 2, 3])
    for token in range(30):  # over the end of a page
        session.decode([token])
    assert len({tuple(call) for call in calls[1:]}) == 1
    assert calls[0][1:] == calls[1][1:]


def test_overflow_is_refused_before_anything_is_written(session, pair):
    session.prefill(history(0, 60))
    for ids in ([1] * 5, [1] * 1000):
        with pytest.raises(SessionError, match=r"at most 64 tokens\n +found: 60 in the cache"):
            session.prefill(ids)
        assert session.length == (60,)
    session.prefill([1] * 4)
    with pytest.raises(SessionError, match="too small"):
        session.decode([1])
    with pytest.raises(SessionError, match="sequence 1"):
        pair.prefill([[1], [1] * 41])
    assert pair.length == (0, 0)


def test_a_refused_request_leaves_the_cache_as_it_was(session, fake):
    ids = history(0, 10)
    session.prefill(ids)
    for bad in ([], [99], [[1], [2]], [1.5]):
        with pytest.raises(SessionError):
            session.prefill(bad)
        with pytest.raises(SessionError):
            session.decode(bad)
    assert session.decode([1]).argmax() == fake.next_token([*ids, 1])


def test_logits_that_are_not_finite_name_the_sequence(pair, fake):
    pair.prefill([[1, 2], [3, 4]])
    with pytest.raises(SessionError, match=r"not finite\n +where: sequence 1\n"):
        pair.decode([5, fake.POISON])
    assert pair.length == (3, 3)
    logits = pair.advance([6, None], [True, False])
    assert logits[0].argmax() == fake.next_token([1, 2, 5, 6])
    with pytest.raises(SessionError, match="sequence 1"):
        pair.decode([1, 1])


@pytest.mark.parametrize("options", [{"batch": 0}, {"max_context": 0}, {"max_context": 65}, {"prefill_chunk": 0}])
def test_options_out_of_range(sum_artifact, options):
    with pytest.raises(SessionError, match="out of range"):
        tqc.load(sum_artifact, **options)


def test_the_cache_is_as_large_as_asked(sum_artifact):
    small, large = tqc.load(sum_artifact, max_context=20), tqc.load(sum_artifact, batch=3)
    assert small.kv_bytes.pages_allocated * 12 == large.kv_bytes.pages_allocated
    assert small.max_context == 20
    with pytest.raises(SessionError, match="at most 20"):
        small.prefill([1] * 21)


def test_kv_bytes_are_those_of_the_buffers(pair):
    sizes = pair.kv_bytes
    # One layer, one KV head of 16 dims: a page of 16 tokens is 2 × 16 × (8 B codes + 2 B scale).
    assert sizes.page == 320
    assert sizes.pages_allocated == 2 * 3 * 320
    assert sizes.sinks == sizes.tail == 2 * 2 * 16 * 16 * 4
    assert sizes.pages == sizes.tokens == sizes.fp16 == 0
    pair.prefill([[1] * 21, [1] * 4])
    sizes = pair.kv_bytes
    assert (sizes.tokens, sizes.coded_tokens, sizes.pages) == (25, 17, 2 * 320)
    assert sizes.fp16 == 25 * 2 * 2 * 16
    assert sizes.page_compression == 3.2
    assert sizes.compression == sizes.fp16 / (sizes.sinks + sizes.tail + sizes.pages)


@pytest.fixture
def damaged(sum_artifact, tmp_path, fake, monkeypatch):
    monkeypatch.setattr(library.tvm_ffi, "load_module", lambda *_: pytest.fail("code was mapped"))
    copy = tmp_path / "copy.tqc"
    shutil.copytree(sum_artifact, copy)
    return copy


def test_no_code_is_mapped_before_every_check(damaged, fake):
    file = damaged / "params.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="changed"):
        tqc.load(damaged)
    file.write_bytes(good[:-1])
    for verify in (True, False):
        with pytest.raises(ArtifactError, match="truncated"):
            tqc.load(damaged, verify=verify)
    file.write_bytes(good)
    (damaged / fake.LIBRARY).write_bytes(b"\0" * (damaged / fake.LIBRARY).stat().st_size)
    for verify, reason in ((True, "changed"), (False, "another processor")):
        with pytest.raises(ArtifactError, match=reason):
            tqc.load(damaged, verify=verify)


@pytest.mark.parametrize(
    ("changes", "device", "message"),
    [
        ({"cpu_level": "x86-64-v9"}, "cpu", "No library of the artifact runs on this processor"),
        ({"kind": "cuda", "cpu_level": None}, "cpu", "no library for this device"),
        ({"tvm_version": "0.26.0"}, "cpu", "another version of apache-tvm"),
        ({"tvm_ffi_version": "0.1.15"}, "cpu", "another version of apache-tvm-ffi"),
    ],
)
def test_an_artifact_for_another_machine(damaged, fake, sum_library, tmp_path, changes, device, message):
    versions = {name: changes.pop(name) for name in list(changes) if name.endswith("version")}
    built = Library(**{"file": fake.LIBRARY, "kind": "cpu", "arch": "x", "cpu_level": "x86-64-v2", **changes})
    out = fake.write_fake(tmp_path / "other.tqc", sum_library, libraries=(built,), **versions)
    with pytest.raises(ArtifactError, match=message):
        tqc.load(out, device)


def test_importing_tqc_alone_is_light():

    code = "import sys, tqc; print(tqc.__version__, [m for m in ('numpy', 'tvm_ffi', 'torch') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == f"{tqc.__version__} []"
    with pytest.raises(AttributeError):
        _ = tqc.no_such_name


def test_a_spoiled_sequence_does_not_cut_the_prompt_of_another(pair, fake):
    rows = [history(1, 30), [1, fake.POISON, *history(2, 20)]]
    with pytest.raises(SessionError, match=r"not finite\n +where: sequence 1\n"):
        pair.prefill(rows)
    assert pair.length == (30, 22)
    assert pair.advance([5, None], [True, False])[0].argmax() == fake.next_token([*rows[0], 5])


def test_advance_refuses_ids_that_are_not_in_the_vocabulary(pair, fake):
    pair.prefill([[1, 2], [3]])
    for ids in ([1, 32], [-1, 1]):
        with pytest.raises(SessionError, match="not in the vocabulary"):
            pair.advance(ids, [True, True])
    assert pair.length == (2, 1)
    assert pair.advance([4, 99], [True, False])[0].argmax() == fake.next_token([1, 2, 4])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("out of memory")])
def test_a_cache_that_does_not_fit_is_refused(sum_artifact, monkeypatch, error):
    def zeros(*_):
        raise error

    monkeypatch.setattr(CpuDevice, "zeros", zeros)
    with pytest.raises(SessionError, match=r"cannot be allocated\n +where: batch 3, max_context 20"):
        tqc.load(sum_artifact, batch=3, max_context=20)
