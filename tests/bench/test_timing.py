from __future__ import annotations

from itertools import cycle

import numpy as np
import pytest

from tqc.bench.timing import COPIES_BYTES, Candidate, Maker, Turns, clock, copies, interleave, reason, run_checked
from tqc.errors import TqcError

RIGHT = np.ones((1, 1, 2))


def counting(call) -> float:
    call()
    return 1.0


def maker(name: str, found=RIGHT, calls=None, **fields) -> Maker:
    run = calls or [lambda: None]
    return Maker(name, "ours", 0, lambda: Candidate(run, 8, lambda: found, RIGHT, 1e-3), **fields)


def test_candidates_take_turns_and_the_first_call_of_a_turn_does_not_count():
    order = []
    calls = {name: cycle([lambda name=name: order.append(name)]) for name in "ab"}
    rounds = interleave(calls, Turns(2, 2, counting), lambda *_: pytest.fail("lost"))
    assert order == [*"aaabbb"] * 2
    assert rounds == {name: ((1.0, 1.0), (1.0, 1.0)) for name in "ab"}


def test_copies_of_a_cache_are_gone_through_in_turn():
    order = []
    run_checked([maker("a", calls=[lambda n=n: order.append(n) for n in range(3)])], Turns(1, 3, counting))
    assert order == [0, 0, 1, 2, 0]  # the check, then a turn


def test_what_is_right_is_timed_with_its_error_and_bytes():
    (found,) = run_checked([maker("a", RIGHT * (1 + 1e-4), exact=True, config={"splits": 4})], Turns(2, 1, counting))
    assert (found.bytes, found.exact, found.fault, found.config) == (8, True, "", {"splits": 4})
    assert found.error == pytest.approx(1e-4)
    assert found.rounds == ((1.0,), (1.0,))


@pytest.mark.parametrize("found", [RIGHT * 2, RIGHT * np.nan, np.ones((1, 2, 2))])
def test_what_is_wrong_has_no_times(found):
    wrong, right = run_checked([maker("wrong", found), maker("right")], Turns(1, 1, counting))
    assert "wrong result" in wrong.fault
    assert wrong.rounds == ()
    assert right.rounds == ((1.0,),)


def test_an_engine_that_fails_does_not_stop_the_others():
    def broken() -> None:
        raise MemoryError("no room")

    left = [3]

    def later() -> None:
        left[0] -= 1
        if not left[0]:
            raise ValueError("third call")

    makers = [Maker("never", "peer", 0, broken), maker("later", calls=[later]), maker("fine")]
    never, later_timing, fine = run_checked(makers, Turns(2, 2, counting))
    assert (never.fault, never.rounds) == ("MemoryError: no room", ())
    assert (later_timing.fault, later_timing.rounds) == ("ValueError: third call", ())
    assert [len(turn) for turn in fine.rounds] == [2, 2]


def test_reasons_are_one_line():
    assert reason(ValueError("a\n  b")) == "ValueError: a b"
    assert reason(ValueError()) == "ValueError"
    assert reason(TqcError("what is wrong", found="this")) == "what is wrong; this"
    assert len(reason(ValueError("x" * 999))) == 300


def test_copies_fill_more_than_the_caches():
    assert copies(COPIES_BYTES // 4) == 4
    assert copies(COPIES_BYTES // 4 + 1) == 4
    assert copies(10 * COPIES_BYTES) == copies(COPIES_BYTES) == 1
    assert copies(0) == COPIES_BYTES


def test_the_clock_calls_once():
    called = []
    assert clock(lambda: called.append(1)) >= 0
    assert called == [1]
