#!/bin/sh
# Everything that docs/benchmarks/quality.md says, from models/demo, in OUT (made, continued, or only reported again).
#
#     ./all.sh OUT [--jobs 32 --threads 1 --home /dev/shm/fisec …]      flags go to evaluate.py
#     ./all.sh OUT --only-report
#
# PYTHON and FISEC pick the interpreter and the program.
set -eu
cd "$(dirname "$0")"
out=$1
shift
python=${PYTHON:-python3}
fisec=${FISEC:-../../target/release/fisec}
mkdir -p "$out"

plan() {
    name=$1
    shift
    [ -d "$out/$name.plan" ] || "$fisec" compile ../../models/demo -o "$out/$name.plan" "$@"
}
plan demo
plan paper --preset paper
plan masked --kv masked
plan live --norm live
plan updated --norm updated
plan levels1 --sparse-levels 1
plan levels2 --sparse-levels 2
plans="--plan paper=$out/paper.plan --plan masked=$out/masked.plan --plan live=$out/live.plan"
plans="$plans --plan updated=$out/updated.plan --plan levels1=$out/levels1.plan --plan levels2=$out/levels2.plan"

methods="edit paper regenerate:28 blend:28 p2p:28 sdedit-50:28 sdedit-60:28 sdedit-75:28 diffedit:28 size-25:28 size-50:28 size-75:28"
choices="edit grow-0 grow-16 no-control mask-latents mask-attention guide-10 paper masked-keys live-norms updated-norms levels-1 levels-2"

evaluate() { # FOLDER FLAGS
    folder=$1
    shift
    # shellcheck disable=SC2086
    $python evaluate.py "$out/demo.plan" "$out/$folder" --fisec "$fisec" $plans "$@"
}
variants() { for name in "$@"; do printf ' --variant %s' "$name"; done; }

# shellcheck disable=SC2046,SC2086
{
    evaluate chains --chains --limit 8 --steps 20 "$@"
    evaluate choices --limit 14 --steps 20 $(variants $choices) "$@"
    evaluate main $(variants $methods) --choices "$out/choices" --chained "$out/chains" \
        --doc ../../docs/benchmarks/quality.md "$@"
}
