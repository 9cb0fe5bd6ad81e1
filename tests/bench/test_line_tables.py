from __future__ import annotations

from tqc.bench.fit import BreakEven, Line
from tqc.bench.line_tables import crossing_text, slope_text


def test_words_of_slopes_and_crossings():
    assert slope_text(Line(slope=2e-6, intercept=0, points=2)) == "2,000"
    assert slope_text(Line(slope=-2e-6, intercept=0, points=2)) == "-2,000"
    assert slope_text(Line(slope=2e-6, intercept=0, error=1e-7, points=3)) == "2,000 ± 100"
    assert crossing_text(BreakEven(where="never")) == "never"
    assert crossing_text(BreakEven(where="from", context=1234.4)) == "from 1,234"
    assert crossing_text(BreakEven(where="until", context=9, beyond=True)) == "until 9 (beyond)"
