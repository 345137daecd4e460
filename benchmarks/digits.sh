#!/usr/bin/env bash
# The main job's claims on the embedded digits, over three seeds; about three quarters of an hour on 2 cores.
# Everything is kept, so a second call only prints the table again.
#
#     benchmarks/digits.sh [RESULTS]
set -euo pipefail
export ADVBENCH_RESULTS="${1:-advbench-results/digits}"

run() { advbench run --target densenet169 "$@" > /dev/null; }

for seed in 0 1 2; do
    # Labels only, at L-inf 0.3, beside noise and what transfers from the very surrogate that PGN starts from.
    run --seed $seed --epsilon 0.3 --attack pgn-b --epochs 12
    run --seed $seed --epsilon 0.3 --attack noise
    run --seed $seed --epsilon 0.3 --attack fgsm --via resnet18
    run --seed $seed --epsilon 0.3 --attack pgd --via resnet18
    # The paper's protocol: no bound, no clipping, gamma 3, 20 epochs.
    run --seed $seed --attack pgn-b
    # Enhance a target that saw 150 images: its weights shared and told the label; labels only; the paper's words.
    few="--epsilon 0.3 --goal enhance --target-images 150 --target-batch 128"
    run --seed $seed $few --attack pgn-50
    run --seed $seed $few --attack pgn-b --epochs 12
    run --seed $seed $few --attack pgn-50 --epochs 12 --no-label-aware --objective least-squares --learning-rate 1e-4 \
        --discriminator-learning-rate 1e-4 --schedule constant --averaging 0
done
advbench compare
