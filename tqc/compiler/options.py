"""What a compilation is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqc.codec import scheme
from tqc.codec.form import EXACT_DTYPES
from tqc.codec.layout import LANES
from tqc.errors import PassError

if TYPE_CHECKING:
    from tqc.frontend import Report
    from tqc.frontend.load import LoadedModel

    from .choose import Chosen

Progress = Callable[[str, float], None]
"""Told the name of the current step and the fraction of the whole that is done."""


LIMITS = {"sinks": (0, 256), "recent": (0, 65536), "page": (LANES, 256)}
"""Tokens. Kernels are unrolled over a page and over the sinks: beyond these they would take minutes to compile."""


@dataclass(frozen=True)
class CompileOptions:
    """Everything `tqc compile` can be told; lengths count tokens.

    `model` is an ONNX file or a loaded model, `output` the artifact's directory. `kv` follows the grammar of
    `tqc.codec.scheme`; in its place `plan` is a file with the schemes of every layer, or `budget` the mean bits of a
    coded number, scales included, for which a plan is made. `rounds` (1 or 2) are those of the rotation.
    `protect` gives keys with a large bias 8 bits where `kv` asks for fewer; `chosen` is told what each layer gets.
    `max_context` defaults to the limit in the files beside the model, or 8192. `calibrate` is a text file whose key
    means centre the keys, in place of the built-in text; `centre` False centres nothing, and neither is done for exact
    keys. `fold` False leaves the value rotation to run time. `dump_dir` receives the IR after every pass. `explain` is
    told what was recognised of the model, before anything is built or when it is refused. `tokenizer` is the folder of
    the tokenizer and settings of a model that has no file of its own, beside which they would lie. `tune_logs` is a
    folder with logs of `tqc tune` that count beside those which come with the compiler.

    Raises CodecError for an unknown scheme, PassError for numbers out of range and for options that would not be used.
    """

    model: Path | LoadedModel
    output: Path
    target: str = "cpu"
    arch: str | None = None
    kv: str = "tq4"
    sinks: int = 4
    recent: int = 128
    page: int = 64
    max_context: int | None = None
    calibrate: Path | None = None
    centre: bool = True
    fold: bool = True
    dump_dir: Path | None = None
    force: bool = False
    progress: Progress = lambda _step, _fraction: None
    explain: Callable[[Report], None] | None = None
    tokenizer: Path | None = None
    plan: Path | None = None
    budget: float | None = None
    rounds: int = 1
    protect: bool = True
    chosen: Callable[[Chosen], None] | None = None
    tune_logs: Path | None = None

    def __post_init__(self) -> None:
        scheme.parse(self.kv)
        self._check_schemes()
        for name, (least, most) in LIMITS.items():
            if not least <= (value := getattr(self, name)) <= most:
                raise PassError(f"--{name} is out of range", expected=f"{least} to {most}", found=str(value))
        if self.page % LANES:
            raise PassError("--page does not fit the kernels", expected=f"a multiple of {LANES}", found=str(self.page))
        if self.max_context is not None and self.max_context < 1:
            raise PassError("--max-context is too small", expected="at least 1", found=str(self.max_context))
        if self.calibrate is not None and not self._measures:
            found = f"--kv {self.kv}, whose keys are exact" if self.centre else "--no-centre"
            raise PassError("--calibrate would be ignored: keys are not centred", found=found, hint="leave one out")
        if self.tokenizer is not None and isinstance(self.model, Path):
            raise PassError("tokenizer would be ignored: its files are read from the model's folder")

    def _check_schemes(self) -> None:
        given = [name for name in ("plan", "budget") if getattr(self, name) is not None]
        if self.kv != CompileOptions.kv:
            given.append("kv")
        if len(given) > 1:
            raise PassError("the schemes are given twice", found=", ".join(f"--{name}" for name in given))
        if self.rounds not in (1, 2):
            raise PassError("--rounds is out of range", expected="1 or 2", found=str(self.rounds))
        if self.budget is not None and not 1 <= self.budget <= 16:
            raise PassError("--budget is out of range", expected="1 to 16 bits", found=f"{self.budget:g}")

    @property
    def _measures(self) -> bool:
        """Whether a text is run at all: for key means, for bases, or for a plan."""
        k, v = scheme.parse(self.kv)
        centred = self.centre and k not in EXACT_DTYPES
        return centred or self.by_layer or scheme.is_measured(k) or scheme.is_measured(v)

    @property
    def by_layer(self) -> bool:
        """Whether layers may have schemes of their own."""
        return self.plan is not None or self.budget is not None

    @property
    def name(self) -> str:
        """The model's name without a folder."""
        return self._path.name

    @property
    def beside(self) -> Path | None:
        """The path beside which the tokenizer and settings of the model lie, None if there are none."""
        if isinstance(self.model, Path):
            return self.model
        return self.tokenizer / self.name if self.tokenizer else None

    @property
    def _path(self) -> Path:
        return self.model if isinstance(self.model, Path) else self.model.path
