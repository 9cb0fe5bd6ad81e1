from __future__ import annotations

import pytest

from tqc.codegen.cuda_toolchain import compile_device_code, find_nvcc, find_nvdisasm
from tqc.codegen.sass import Instruction, by_class, count, disassemble, kind_of, moves, parse_sass
from tqc.errors import TargetError

TEXT = """
//--------------------- .text.first          --------------------------
	.section	.text.first,"ax",@progbits
	.sectioninfo	@"SHI_REGISTERS=24"
        .global         first
first:
.text.first:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_2:
        /*0010*/               @P0 EXIT ;
        /*0020*/                   HMMA.16816.F32 R12, R4.reuse, R2, R12 ;
        /*0030*/                   IMAD.U32 R9, RZ, RZ, UR4 ;
        /*0040*/              @!P1 BRA `(.L_x_2) ;
        /*0050*/                   BRA P2, `(.L_x_2) ;
        /*0060*/                   BRA.DIV UR4, `(.L_x_2) ;
        /*0070*/                   BSSY B0, `(.L_x_2) ;
        /*0080*/               @UP0 UIADD3 UR4, UR4, 0x1, URZ ;
.L_x_3:
        /*0090*/                   BRA `(.L_x_3);
	.section	.nv.constant0.first,"a",@progbits
	.section	.text.second,"ax",@progbits
        /*0000*/                   EXIT ;
"""


def test_instructions_and_labels_of_every_kernel() -> None:
    kernels = parse_sass(TEXT)
    assert list(kernels) == ["first", "second"]
    first = kernels["first"]
    assert first.labels == {".L_x_2": 1, ".L_x_3": 9}
    assert first.instructions == (
        Instruction("LDC"),
        Instruction("EXIT", conditional=True),
        Instruction("HMMA.16816.F32"),
        Instruction("IMAD.U32"),
        Instruction("BRA", ".L_x_2", True),
        Instruction("BRA", ".L_x_2", True),
        Instruction("BRA.DIV", ".L_x_2", True),
        Instruction("BSSY"),
        Instruction("UIADD3", conditional=True),
        Instruction("BRA", ".L_x_3", False),
    )
    assert kernels["second"].instructions == (Instruction("EXIT"),)


def test_counts() -> None:
    body = parse_sass(TEXT)["first"].instructions
    assert by_class(body) == {"control": 6, "fma": 1, "memory": 1, "tensor": 1, "uniform": 1}
    assert count(body, "HMMA", "BRA") == 5
    assert moves(body) == 1
    assert kind_of("NOVELTY") == "other"


def test_machine_code_is_read_back() -> None:
    try:
        find_nvcc()
        find_nvdisasm()
    except TargetError as error:
        pytest.skip(str(error))
    source = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] += x[threadIdx.x] * 3.0f; }'
    kernels = disassemble(compile_device_code(source, "sm_90", form="cubin").code)
    assert list(kernels) == ["twice"]
    assert count(kernels["twice"].instructions, "FFMA") == 1
    with pytest.raises(TargetError, match="nvdisasm"):
        disassemble(b"no cubin")


def test_nvdisasm_that_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    from tqc.codegen import cuda_toolchain

    monkeypatch.setattr(cuda_toolchain, "_candidates", lambda: [])
    monkeypatch.setattr(cuda_toolchain, "wheel_folders", lambda: ())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TargetError, match="nvdisasm was not found"):
        find_nvdisasm()
