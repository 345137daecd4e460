#!/usr/bin/env bash
# PGN on real images: STL-10 at 96 pixels, targets from scratch that saw 1,000 images, ImageNet MobileNetV2 as what the
# attacker starts from. DATA holds stl10_binary/ and weights/mobilenet_v2_imagenet_fp16.safetensors.
# The rates are low for what starts from ImageNet weights.
#
#     benchmarks/stl10.sh [DATA] [RESULTS]
set -euo pipefail
data="${1:-data}"
export ADVBENCH_RESULTS="${2:-advbench-results/stl10}"
weights="$data/weights/mobilenet_v2_imagenet_fp16.safetensors"
pgn=(--backbone surrogate --surrogate-epochs 3 --surrogate-learning-rate 1e-4 --backbone-normalisation half
     --encoder mobilenet_v2 --encoder-weights "$weights" --discriminator mobilenet_v2 --discriminator-weights "$weights"
     --decoder-width 0.125 --fit-images 2000 --epochs 3 --batch-size 32 --objective logistic --learning-rate 1e-3
     --discriminator-learning-rate 3e-5 --initial-scale 1)
surrogate=(--via mobilenet_v2 --via-weights "$weights" --via-normalisation half --via-epochs 3 --via-lr 1e-4
           --fit-images 2000)

for target in resnet18 densenet169; do
    run() { advbench run --dataset stl10 --data "$data" --target $target --target-images 1000 "$@" > /dev/null; }
    run --epsilon 16/255 --attack noise
    run --epsilon 16/255 --attack fgsm "${surrogate[@]}"
    for goal in degrade enhance; do
        run --epsilon 16/255 --goal $goal --attack pgn-b "${pgn[@]}"
        run --goal $goal --attack pgn-b "${pgn[@]}"
    done
done
advbench compare
