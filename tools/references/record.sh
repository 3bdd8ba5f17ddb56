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
$python emulate.py $data/nano-pipeline $data/emulation/nano --sparse-levels 4 0 8 --live-inside
$python control.py $data/nano-pipeline $data/emulation/control
$python emulate.py $demo $data/emulation/demo --type f16
