#!/bin/sh
# Exports PIPELINE (a diffusers folder) as models/demo and records everything again. PYTHON picks the interpreter.
#
#     ./record.sh PIPELINE          without PIPELINE: only the references, of models/demo as it is
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
data=../../tests/data
demo=../../models/demo
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # small tensors: more threads mostly wait for each other

if [ $# -gt 0 ]; then
    rm -rf "$demo/unet" "$demo/text_encoder" "$demo/vae_decoder" "$demo/vae_encoder" "$demo/tokenizer" "$demo/scheduler"
    $python ../export/export.py "$1" "$demo" --weights int8
fi
$python samplers.py $data/samplers
$python noise.py $data/noise
$python clip_tokenizer.py $data/tokens/clip
$python tokens.py $data/tokens/clip $data/tokens/clip.json.gz
$python tokens.py $demo/tokenizer $data/tokens/demo.json.gz
# two releases of transformers: folders that hold them alone, see tokenizer_folders.py
if [ -n "${TRANSFORMERS_4:-}" ] && [ -n "${TRANSFORMERS_5:-}" ]; then
    scratch=$(mktemp -d)
    for release in "$TRANSFORMERS_4" "$TRANSFORMERS_5"; do
        PYTHONPATH=$release $python tokenizer_folders.py $data/tokens/clip "$scratch/$(basename "$release").json"
    done
    $python tokenizer_folders.py $data/tokens/clip $data/tokens/folders.json.gz --join "$scratch"/*.json
    rm -r "$scratch"
fi
$python emulate.py $data/nano-pipeline $data/emulation/nano --sparse-levels 4 0 8 --live-inside
$python control.py $data/nano-pipeline $data/emulation/control
$python emulate.py $demo $data/emulation/demo --type f16
