"""After lowering, functions return logits and keep their writes."""

from cpu_kernels import cpu_schedules
from toy import toy_module
from tvm import relax

from tqc.passes.attach_cache import AttachCache
from tqc.passes.drop_state_outputs import DropStateOutputs
from tqc.passes.lower_to_schedules import LowerToSchedules
from tqc.passes.pipeline import run


def test_only_the_logits_are_returned_and_the_append_stays():
    explicit = [relax.transform.LegalizeOps(), relax.transform.ToNonDataflow()]
    explicit += [relax.transform.RemovePurityChecking(), relax.transform.CallTIRRewrite()]
    before = run(toy_module(), [AttachCache(), LowerToSchedules(schedules=cpu_schedules()), *explicit])
    after = DropStateOutputs()(before)
    for name in ("decode", "prefill", "prefill_all"):
        assert isinstance(before[name].ret_ty, relax.TupleType)
        assert isinstance(after[name].ret_ty, relax.TensorType)
        assert len(after[name].ret_ty.shape) == 3
        calls = [b.value for block in after[name].body.blocks for b in block.bindings]
        kernels = [c.op.name_hint for c in calls if isinstance(c, relax.Call) and hasattr(c.op, "name_hint")]
        assert kernels.count("tqc_append") == 1
