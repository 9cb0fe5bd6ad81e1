"""The CPU schedules without norms and RoPE, enough to lower the toy module."""

from tqc.passes.lower_to_schedules import Schedules
from tqc.schedules.cpu_append import make_append
from tqc.schedules.cpu_config import cpu_config
from tqc.schedules.cpu_decode import make_decode
from tqc.schedules.cpu_prefill import make_prefill

CONFIG = cpu_config("portable")


def cpu_schedules() -> Schedules:
    return Schedules(
        append=lambda layout: make_append(layout, config=CONFIG),
        decode=lambda layout, **options: make_decode(layout, config=CONFIG, **options),
        prefill=lambda layout, **options: make_prefill(layout, config=CONFIG, **options),
        decisions=lambda _schedule, _layout: {"isa": CONFIG.isa},
    )
