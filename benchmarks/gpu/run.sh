#!/usr/bin/env bash
# All that needs an NVIDIA GPU, in one command:
#
#     benchmarks/gpu/run.sh RESULTS [ARTIFACT.tqc [REFERENCE.tqc…]]
#
# A step that fails does not stop the next; the status is 1 if any did. See README.md in this folder.
set -uo pipefail

if [ $# -lt 1 ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi

root=$(cd "$(dirname "$0")/../.." && pwd)
results=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
shift
artifacts=()
for artifact in "$@"; do artifacts+=("$(realpath "$artifact")"); done

python=${TQC_PYTHON:-$root/.venv/bin/python}
heads=${TQC_HEADS:-32x8x128}
minutes=${TQC_MINUTES:-10}
cd "$root" || exit 2

failed=0
note() { printf '%s\n' "$*" | tee -a "$results/steps.txt"; }

# step NAME COMMAND…: its output goes to NAME.log; what it ended with to steps.txt.
step() {
    local name=$1 start=$SECONDS status
    shift
    echo "$name: $*" >&2
    "$@" >"$results/$name.log" 2>&1
    status=$?
    note "$name: status $status, $((SECONDS - start)) s"
    [ $status -eq 0 ] || { failed=1; tail -n 15 "$results/$name.log" >&2; }
    return $status
}

tqc() { "$python" -c 'from tqc.cli.main import main; main()' "$@"; }

environment() {
    date -u
    uname -a
    nvidia-smi && nvidia-smi -q -d CLOCK,POWER,PERFORMANCE
    "$python" -m pip list 2>/dev/null
    tqc targets
    git -C "$root" rev-parse HEAD 2>/dev/null || true
}

sanitizer() {
    command -v compute-sanitizer || ls "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" 2>/dev/null
}

: >"$results/steps.txt"
if ! [ -x "$python" ]; then
    step setup make .venv/dev.done || { note "no Python environment: nothing was run"; exit 1; }
fi
if ! "$python" -c 'import sys; from tqc.bench.gpu import find_gpu; print(find_gpu())' >"$results/gpu.txt" 2>"$results/gpu.log"; then
    tail -n 4 "$results/gpu.log" >&2
    note "no GPU: nothing was run"
    exit 1
fi
arch=$("$python" -c 'from tqc.bench.gpu import find_gpu; print(find_gpu().arch)')

step environment environment

if "$python" -c 'import pytest' 2>/dev/null; then
    step tests "$python" -m pytest -m gpu -q -p no:cacheprovider
    if checker=$(sanitizer); then
        # One layout and type: a sanitizer makes kernels a hundred times slower.
        for tool in memcheck racecheck synccheck; do
            step "$tool" "$checker" --tool "$tool" --error-exitcode 9 --target-processes all \
                "$python" -m pytest -q -p no:cacheprovider tests/schedules/test_cuda_gpu.py \
                -k "(test_calls_follow_the_model and options0 and float16 or test_other_readers) and k4v3"
        done
    else
        note "memcheck, racecheck, synccheck: no compute-sanitizer, not run"
    fi
else
    note "tests: no pytest, not run"
fi

# Before tuning and after it, so that the gain is measured and not taken from the tuner's own times.
step attention-default tqc bench attention --target cuda --heads "$heads" --kv tq4,tq2,fp16 -o "$results/attention-default"
for kernel in decode prefill; do
    step "tune-$kernel" tqc tune "$kernel" --target cuda --arch "$arch" --heads "$heads" --kv tq4,tq2,fp16 \
        --minutes "$minutes"
done
cp -r tune_logs "$results/" && rm -rf "$results/tune_logs/__pycache__"
step attention tqc bench attention --target cuda --heads "$heads" --kv tq4,tq2,fp16 -o "$results/attention"

if [ ${#artifacts[@]} -gt 0 ]; then
    references=()
    for reference in "${artifacts[@]:1}"; do references+=(--reference "$reference"); done
    step model tqc bench model "${artifacts[0]}" ${references[@]+"${references[@]}"} --device cuda --batch 1,8 \
        -o "$results/model"
else
    note "model: no artifact was named, not run"
fi

note "results: $results"
exit $failed
