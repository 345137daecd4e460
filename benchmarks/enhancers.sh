#!/usr/bin/env bash
# What stands beside PGN-enhance, all at L-inf 0.3, on digits with a target that saw 150 images.
# Everything is kept, so a second call only prints the table again.
#
#     benchmarks/enhancers.sh [RESULTS] [TARGET] [SEEDS]
set -euo pipefail
export ADVBENCH_RESULTS="${1:-advbench-results/enhancers}"
target="${2:-densenet169}"
few="--target-images 150 --target-batch 128 --goal enhance --epsilon 0.3"

run() { advbench run --target "$target" $few "$@" > /dev/null; }

for seed in ${3:-0 1 2}; do
    # Nothing is learnt, and the target is not asked.
    run --seed $seed --attack identity
    run --seed $seed --attack noise
    run --seed $seed --attack jpeg
    # Without training, but asking about each image.
    run --seed $seed --attack tta
    run --seed $seed --attack tta --by labels
    # The amicable aid: gradients towards the class that the target predicts anyway.
    run --seed $seed --attack fgsm
    run --seed $seed --attack pgd
    # Trained on all of the attacker's images: one pattern for all of them, or a network.
    run --seed $seed --attack prompt
    run --seed $seed --attack prompt --shape full
    run --seed $seed --attack pgn-b --epochs 12
    run --seed $seed --attack pgn-50 --epochs 12
    # Oracles: shown the very answers that are scored. A bound, and no method.
    run --seed $seed --attack fgsm --label true --true-labels
    run --seed $seed --attack pgd --label true --true-labels
done
advbench list results
