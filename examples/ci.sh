#!/usr/bin/env bash
# A job of a CI: train a short run, demand a result, test it once more. Any failure ends it with a non-zero exit code.
set -e
name=${1:-ci-$$}
metalearn train experiment=maml/sinusoid task.shot=10 steps=1500 test_episodes=500 name="$name" 'expect=mse_step1<=2.5'
metalearn eval run="outputs/$name" test_episodes=1000 'expect=mse_step1<=2.5' | tail -n 5
