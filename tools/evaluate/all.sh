#!/bin/sh
# Everything that docs/benchmarks/quality.md says, from models/demo, in OUT (made, continued, or only reported again).
#
#     ./all.sh OUT [PART …] [-- flags of evaluate.py, such as --jobs 16 --threads 1 --home /dev/shm/fisec]
#     ./all.sh OUT report            the page from what the parts left
#
# Parts: main, guide, choices, chains, and control, which compares on the CPU what plans for a GPU have not. TARGET is what
# the others are compiled for [cpu]; PYTHON and FISEC pick the interpreter and the program.
set -eu
cd "$(dirname "$0")"
out=$1
shift
parts=
while [ $# -gt 0 ] && [ "$1" != -- ]; do parts="$parts $1"; shift; done
[ $# -eq 0 ] || shift
python=${PYTHON:-python3}
fisec=${FISEC:-../../target/release/fisec}
mkdir -p "$out"

# shellcheck disable=SC2086
evaluate() { # FOLDER VARIANTS FLAGS…
    folder=$1 variants=
    for name in $2; do variants="$variants --variant $name"; done
    shift 2
    $python evaluate.py "$out/demo.plan" "$out/$folder" --fisec "$fisec" $variants "$@"
}

plan() { # NAME FLAGS…
    name=$1
    shift
    [ -d "$out/$name.plan" ] || "$fisec" compile ../../models/demo -o "$out/$name.plan" "$@"
    plans="$plans --plan $name=$out/$name.plan"
}

# shellcheck disable=SC2086
for part in ${parts:-main guide choices chains control report}; do
    plans=
    [ "$part" = report ] || [ "$part" = control ] || plan demo --target "${TARGET:-cpu}"
    case $part in
    main)
        plan paper --preset paper --target "${TARGET:-cpu}"
        methods="regenerate:56 blend:56 sdedit-50:56 sdedit-75:56 diffedit:56 size-25:28 size-50:28 size-75:28"
        evaluate main "edit paper $methods" $plans "$@"
        ;;
    choices)
        plan masked --kv masked --target "${TARGET:-cpu}"
        plan live --norm live --target "${TARGET:-cpu}"
        plan updated --norm updated --target "${TARGET:-cpu}"
        plan levels1 --sparse-levels 1 --target "${TARGET:-cpu}"
        plan levels2 --sparse-levels 2 --target "${TARGET:-cpu}"
        runs="grow-0 grow-24 feather-0"
        evaluate choices "edit masked-keys live-norms updated-norms levels-1 levels-2 $runs" --limit 14 $plans "$@"
        ;;
    guide) evaluate guide "edit guide-3 guide-10 grow-16" --limit 14 "$@" ;;
    chains) evaluate chains "" --chains --limit 8 "$@" ;;
    control)
        mkdir -p "$out/cpu"
        [ -d "$out/cpu/demo.plan" ] || "$fisec" compile ../../models/demo -o "$out/cpu/demo.plan"
        (out=$out/cpu && evaluate control "edit no-control mask-attention p2p" --limit 14 --steps 20 "$@")
        ;;
    report)
        folders=
        for folder in guide choices cpu/control; do [ ! -d "$out/$folder" ] || folders="$folders --choices $out/$folder"; done
        [ ! -d "$out/chains" ] || folders="$folders --chained $out/chains"
        evaluate main edit --only-report $folders --doc ../../docs/benchmarks/quality.md "$@"
        ;;
    esac
done
