#!/usr/bin/env bash
# Short runs on Omniglot and on CIFAR-FS, each tested at home and in the other domain; cross_domain.md has what came out.
# Wants METALEARN_DATA with both (see the README). Runs stand in outputs/cross_domain/; what is there is not done again.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1

metalearn() { python -m metalearn_cli "$@"; }
common=(threads=1 eval_every=0 select=last "other_batch_norm=[transductive]" test_episodes=600)
omniglot=(task=omniglot task.resample=lanczos)
other=(test_episodes=600 "other_batch_norm=[transductive]")

# 5-way 1-shot, 15 queries a class. ProtoNet trains 20-way with 5 queries, first-order MAML 5-way.
protonet=(algo=protonet task.train_way=20 task.train_query=5)
maml=(algo=maml algo.first_order=true algo.inner_lr=0.1 algo.inner_steps=3 algo.test_steps=5 tasks_per_step=4)
maml+=(task.train_query=5 model.head_std=0.01)

metalearn train "${protonet[@]}" "${omniglot[@]}" "${common[@]}" steps=800 name=cross_domain/protonet-omniglot
metalearn train "${protonet[@]}" task=cifar_fs "${common[@]}" steps=600 name=cross_domain/protonet-cifar_fs
metalearn train "${maml[@]}" "${omniglot[@]}" "${common[@]}" steps=600 name=cross_domain/maml-omniglot
metalearn train "${maml[@]}" task=cifar_fs "${common[@]}" steps=500 name=cross_domain/maml-cifar_fs
for algo in protonet maml; do
  metalearn eval run=outputs/cross_domain/$algo-omniglot task=cifar_fs "${other[@]}"
  metalearn eval run=outputs/cross_domain/$algo-cifar_fs "${omniglot[@]}" "${other[@]}"
done
