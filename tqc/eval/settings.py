"""What an evaluation is to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tqc.errors import TqcError
from tqc.eval.results import SECTIONS, Section
from tqc.eval.retrieval import DEPTHS, TASKS


@dataclass(frozen=True)
class Settings:
    """What to measure. `tokens`: predictions of fidelity, and tokens whose codes are compared; `chunk`: tokens a step
    (see `teacher_forced`). `lengths` and `depths` of retrieval prompts, `trials` of each task at each; without lengths
    a quarter, a half and all of the context or of 4096 tokens, where the needles fit. `contexts`: lengths whose cache
    is priced; powers of four and the whole context by default."""

    sections: Sequence[Section] = SECTIONS
    tokens: int = 2048
    chunk: int = 1
    lengths: Sequence[int] = ()
    depths: Sequence[float] = DEPTHS
    tasks: Sequence[str] = TASKS
    trials: int = 1
    contexts: Sequence[int] = ()
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Raises TqcError for values that make no sense for any artifact."""
        checks = [
            ("sections", bool(self.sections) and set(self.sections) <= set(SECTIONS), ", ".join(SECTIONS)),
            ("tokens", self.tokens >= 1, "1 or more"),
            ("chunk", self.chunk >= 1, "1 or more"),
            ("trials", self.trials >= 1, "1 or more"),
            ("seed", self.seed >= 0, "0 or more"),
            ("depths", bool(self.depths) and all(0 <= depth <= 1 for depth in self.depths), "0 to 1"),
            ("tasks", bool(self.tasks) and set(self.tasks) <= set(TASKS), ", ".join(TASKS)),
        ]
        for name, fine, expected in checks:
            if not fine:
                value = getattr(self, name)
                found = str(value) if isinstance(value, int) else ", ".join(map(str, value)) or "nothing"
                raise TqcError("an option is out of range", where=name, expected=expected, found=found)
