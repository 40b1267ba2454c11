"""Row D8 of the fault matrix: faults written into the program by hand, each of which the tests beside it must see.

Only in the full column: each copies the package and runs those tests in a process of its own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from places import ROOT


class Mutant(NamedTuple):
    file: str
    old: str
    new: str
    tests: str  # in the folder of tests


RANKS, LABELS = "faults/test_ranks.py", "learning/test_learner.py::test_query_labels_never_change_a_prediction"
KILL, LEARNER = "resume/test_kill.py", "learning/test_learner.py resume/test_kill.py"
CHECKPOINT, WAITING = "run_folder/test_checkpoint.py", "training/test_waiting.py"
CONTINUED, EVALUATE = "training/test_continued.py", "learning/test_evaluate.py"
INNER, REPTILE, MASKS = "algorithms/test_maml.py", "algorithms/test_reptile.py", "algorithms/test_masks.py"
SAMPLER = "tasks/test_variable_sizes.py tasks/test_episodes.py"
START, STAGES, NOISE = "training/test_start.py", "training/test_stages.py", "nets/test_noise.py algorithms/test_call.py"
SOLVERS, HEADS = "algorithms/test_solvers.py", "algorithms/test_heads.py"
VECTORS = "algorithms/test_support_vectors.py"
LEFT_OUT, TEMPERATURE = "trained/test_left_out.py", "trained/test_temperature.py"
SCORES = "trained/test_run_scores.py"
BY_PRETRAINED, EMBEDDED = "trained/test_by_pretrained.py", "tasks/test_embedded.py"
BASELINES, LEAKAGE = "learning/test_baselines.py", "learning/test_leakage.py"
CACHE, ENCODER = "backbones/test_feature_cache.py", "backbones/test_encoder.py"
WEIGHTS, EMBED = "backbones/test_weights_file.py", "commands/test_embed.py"
OUTSIDE = "config/test_schema.py::test_weights_outside_of_a_folder_are_not_opened_for_it"
NO_YAML = "config/test_schema.py::test_a_class_of_this_package_that_no_yaml_is_of_is_a_sentence"
RUN, LIKELIHOOD = "training/test_run.py", "tasks/test_likelihood.py"
MUTANTS = (
    # Several ranks
    Mutant("system/ranks.py", "tensors = [value / self.size for", "tensors = [value for", RANKS),
    Mutant("system/ranks.py", "            dist.all_reduce(flat)\n", "            pass\n", RANKS),
    Mutant("system/signals.py", "agreed = self._agree(self.number)", "agreed = self.number", RANKS),
    Mutant("training/loop.py", "        if not learner.ranks.is_first:\n            return\n", "", RANKS),
    Mutant("learning/evaluate.py", "in ranks.gather(mine) if", "in [mine] if", RANKS),
    # Files and resuming
    Mutant("system/files.py", "            os.fsync(file.fileno())\n", "", CHECKPOINT),
    Mutant("system/files.py", "    sync_folder(path.parent)\n", "", CHECKPOINT),
    Mutant("system/files.py", "        temporary.unlink(missing_ok=True)\n", "        pass\n", CHECKPOINT),
    Mutant("run_folder/checkpoint.py", "name is None or sha256", "False and sha256", CHECKPOINT),
    Mutant("learning/learner.py", 'state |= {f"optimizer.', '_ = {f"optimizer.', LEARNER),
    Mutant("learning/learner.py", 'state |= {f"buffers.', '_ = {f"buffers.', LEARNER),
    Mutant("config/job.py", '"train", step)\n', '"train", step + 1)\n', "training/test_run.py"),
    Mutant("run_folder/writers.py", 'if line["step"] <= step', "if True", KILL),
    Mutant("training/loop.py", "Reached(newest.step, best", "Reached(newest.step + 1, best", KILL),
    Mutant("training/loop.py", "step % settings.save_every == 0", "step % settings.save_every == 1", KILL),
    Mutant("run_folder/lock.py", "fcntl.LOCK_EX |", "fcntl.LOCK_SH |", "run_folder/test_runs.py"),
    # What a person waits for
    Mutant("training/test.py", "scored_parts.write_part(kept, place, parts[place])", "pass", WAITING),
    Mutant("run_folder/scored_parts.py", "sha256(data).hexdigest()[:16] == name[3]", "sha256(data)", WAITING),
    Mutant("run_folder/scored_parts.py", "([weights.hexdigest(), machine, about]", "([machine, about]", WAITING),
    Mutant("training/continued.py", "not named and not is_choice", "not named", CONTINUED),
    Mutant("training/continued.py", "return not named and", "return", CONTINUED),
    # Evaluation
    Mutant("learning/draws.py", "episodes_seed, split, block)", "episodes_seed, block)", EVALUATE),
    Mutant("training/test.py", 'EpisodeRange("test", total', 'EpisodeRange("train", total', "training/test_run.py"),
    Mutant("learning/scores.py", "1.96", "1.0", EVALUATE),
    Mutant("tasks/likelihood.py", "out.argmax(-1) == y", "out.argmax(-1) != y", LABELS),
    # Algorithms
    Mutant("algorithms/inner_loop.py", "create_graph=recording and second_order", "create_graph=False", INNER),
    Mutant("algorithms/inner_loop.py", "total = loss.sum()", "total = loss.mean()", INNER),
    Mutant("algorithms/inner_loop.py", "phi[name] - scaled(", "phi[name] + scaled(", INNER),
    Mutant("algorithms/rematerialise.py", "for _ in range(steps):", "for _ in range(steps - 1):", INNER),
    Mutant("algorithms/inner_loop.py", "net(phi, batch.query_x", "net(phi, batch.support_x", INNER),
    Mutant("algorithms/losses.py", "torch.autograd.grad(loss.mean()", "torch.autograd.grad(loss.sum()", INNER),
    Mutant("algorithms/reptile.py", "value - state.params[name]", "state.params[name]", REPTILE),
    Mutant("algorithms/reptile.py", "1 - BETA2**steps", "1 - BETA2", REPTILE),
    Mutant("algorithms/protonet.py", "-squared_distance(", "squared_distance(", "algorithms/test_protonet.py"),
    Mutant("algorithms/matching.py", "scores.log_softmax(-1)", "scores", "algorithms/test_matching.py"),
    Mutant("algorithms/meta_lstm.py", "torch.sigmoid(gates.forget) * theta", "theta", "algorithms/test_meta_lstm.py"),
    Mutant(
        "algorithms/relation.py",
        "mask.unsqueeze(2) & is_class.any(1, keepdim=True)",
        "mask.unsqueeze(2).expand(-1, -1, way)",
        MASKS,
    ),
    Mutant("algorithms/feat.py", "scores.masked_fill(~sees, torch.finfo(scores.dtype).min)", "scores", MASKS),
    Mutant("algorithms/leo.py", "create_graph=records", "create_graph=False", "algorithms/test_leo.py"),
    Mutant(
        "algorithms/deep_emd.py", " + (flow * (cost - cost.detach())).sum((-2, -1))", "", "algorithms/test_deep_emd.py"
    ),
    Mutant("algorithms/inner_loop.py", "not self.first_order, self.r", "False, self.r", "algorithms/test_meta_sgd.py"),
    # Networks
    Mutant("nets/layers.py", "correction=0, keepdim=True) if", "correction=1, keepdim=True) if", "nets/test_nets.py"),
    Mutant("nets/layers.py", "torch.sigmoid(f) * c +", "c +", "nets/test_nets.py algorithms/test_meta_lstm.py"),
    Mutant("nets/conv_block.py", "gamma.detach() < 0, -1.0", "gamma.detach() < 0, 1.0", "nets/test_conv_block.py"),
    # Tasks
    Mutant("tasks/one_size.py", "image[..., shot:])", "image[..., :query])", "tasks/test_episodes.py"),
    Mutant("tasks/episodes.py", "splits = self.train_splits\n", 'splits = ("train",)\n', "tasks/test_episodes.py"),
    Mutant("tasks/one_size.py", "keys.masked_fill(~members, -1)", "keys", SAMPLER),
    Mutant("tasks/variable_sizes.py", ".clamp(max=max_support)", "", SAMPLER),
    Mutant("tasks/variable_sizes.py", "amin(1).div(2", "amin(1).div(1", SAMPLER),
    Mutant("tasks/sinusoid.py", 'torch.sin(x - at["phase"])', 'torch.cos(x - at["phase"])', "tasks/test_curves.py"),
    Mutant("tasks/gaussian_process.py", "if support_mask is not None:", "if False:", "tasks/test_gaussian_process.py"),
    Mutant(
        "tasks/drawn_sizes.py",
        "size.repeat_interleave(OF_ONE_SIZE if groups > 1 else tasks)[:tasks]",
        "size[torch.arange(tasks) % groups]",
        "tasks/test_gaussian_process.py",
    ),
    Mutant("tasks/likelihood.py", "mean.var(2, correction=0)", "0", LIKELIHOOD),
    Mutant("tasks/likelihood.py", "(own + (middle", "((middle", LIKELIHOOD),
    Mutant("nets/set_net.py", "if sees is not None:", "if False:", "algorithms/test_neural_process.py"),
    Mutant("nets/transformer.py", "(place < end)", "(place <= end)", "algorithms/test_tnp.py"),
    Mutant("nets/sequence.py", "itself | (self.is_seen.unsqueeze(1) &", "itself | (", "nets/test_sequence.py"),
    Mutant("nets/snail_net.py", "before(2**layer)", "before(2 ** (layer + 1))", "nets/test_sequence.py"),
    Mutant("algorithms/snail.py", "y, support.mask)", "y)", "algorithms/test_in_context_regression.py"),
    Mutant("tasks/function_class.py", "rank >= self.nonzero", "rank > self.nonzero", "tasks/test_function_class.py"),
    Mutant("algorithms/neural_process.py", " - log_density(posterior, z)", "", "algorithms/test_neural_process.py"),
    Mutant("algorithms/tnp.py", "+ factors.square().sum(-1)", "", "algorithms/test_tnp.py"),
    Mutant("seeding.py", "    x = (x ^ _shift(x, 27)) * _SECOND\n", "", "test_seeding.py"),
    # What a run begins with, and its stages
    Mutant("training/start.py", "elif value.dtype not in FLOATS:", "elif False:", START),
    Mutant("training/start.py", "elif value.shape != drawn[place].shape:", "elif False:", START),
    Mutant("training/start.py", "elif place in taken:", "elif False:", START),
    Mutant("training/start.py", ".isfinite().all()", ".isfinite().any()", START),
    Mutant("training/start.py", 'if name.startswith("optimizer."):', "if False:", START),
    Mutant(
        "training/start.py", 'bool(checkpoint.list_newest_first(runs.OUTPUTS / name / "checkpoints"))', "False", START
    ),
    Mutant("training/run.py", "taken, *_ = match(f", "taken, *_ = {}, (f", STAGES),
    Mutant("training/start.py", "if job.run.steps == 0 and place", "if False and place", "training/test_start.py"),
    Mutant("training/run.py", "init = stage.run.init if last is None else str(last)", "init = stage.run.init", STAGES),
    Mutant(
        "training/run.py", "with of_stage(number) if job is not jobs[-1] else contextlib", "with contextlib", STAGES
    ),
    Mutant("config/stages.py", '["schedule_steps"] = None', '["other"] = None', STAGES),
    Mutant("config/stages.py", "if group in OF_THE_RUN:", "if False:", STAGES),
    Mutant("config/stages.py", "if number else stage)", ")", STAGES),
    # What Python reads of a run
    Mutant("trained/run_scores.py", "draw_slice(block, number, number + 1)", "draw_slice(block, 0, 1)", SCORES),
    Mutant("trained/run_scores.py", "if draw_sha256(list(", "if None and draw_sha256(list(", SCORES),
    Mutant("nets/as_module.py", "value[0].detach(), 0.1", "value[0].detach(), 0.2", "nets/test_as_module.py"),
    Mutant("nets/user_module.py", "layer.running_var.copy_(", "str(", "nets/test_as_module.py"),
    # Queries that are predicted together
    Mutant("algorithms/base.py", "if self.transductive_head and mode", "if mode", RUN),
    Mutant("training/test.py", "transductive_head=job.algo.transductive_head,", "", RUN),
    Mutant("trained/predict.py", "if model.algo.transductive_head:", "if False:", RUN),
    # What is dropped in training
    Mutant("nets/noise.py", "call.step, call.noise.examples.value, layer,", "call.step, layer,", NOISE),
    Mutant("nets/noise.py", "_DROPPED, call.step,", "_DROPPED,", NOISE),
    Mutant("nets/noise.py", "fold(kept.to(x.dtype)) / (1 - share)", "fold(kept.to(x.dtype))", NOISE),
    Mutant("nets/noise.py", "if call.noise is None or block.share == 0:", "if block.share == 0:", NOISE),
    Mutant("nets/noise.py", "(kept.mean((2, 3, 4)) * real).sum(1) / real.sum(1)", "kept.mean((1, 2, 3, 4))", NOISE),
    Mutant("nets/replaced_layers.py", "running.drops += 1", "running.drops = 1", "nets/test_user_module.py"),
    # Heads that are solved, likelihoods
    Mutant("algorithms/solvers.py", "x.where(mask.unsqueeze(-1), 0)", "x", f"{SOLVERS} {HEADS}"),
    Mutant("algorithms/solvers.py", "return -in_x[..., :-1]", "return in_x[..., :-1]", SOLVERS),
    Mutant("algorithms/solvers.py", "price[:, -1] = 0", "pass", SOLVERS),
    Mutant("algorithms/solvers.py", "(y - torch.sigmoid(out)) / spread", "(y - torch.sigmoid(out)) * spread", SOLVERS),
    Mutant("algorithms/support_vectors.py", "- middle) / s).where(real, 0)", "- middle) / s)", VECTORS),
    Mutant("algorithms/support_vectors.py", ".a.transpose(1, 2) @ a", ".a.transpose(1, 2) @ -a", VECTORS),
    Mutant("algorithms/embedding.py", "label_smoothing * way / (way - 1)", "label_smoothing * way / way", HEADS),
    Mutant("tasks/likelihood.py", "deviation.log() +", "", LIKELIHOOD),
    Mutant("tasks/likelihood.py", "self.floor + (1 - self.floor) *", "self.floor +", LIKELIHOOD),
    # Baselines, and what the weights know
    Mutant("learning/baselines.py", "- 2 * (query @ support.mT)", "- (query @ support.mT)", BASELINES),
    Mutant("learning/baselines.py", "if pictures.support_mask is not None:", "if False:", BASELINES),
    Mutant("learning/baselines.py", "(255 * x.flatten(2)).round() - 128", "(255 * x.flatten(2)).round()", BASELINES),
    Mutant(
        "learning/baselines.py", "means = F.normalize(prototypes(", "means = (lambda x, dim: x)(prototypes(", BASELINES
    ),
    Mutant(
        "learning/baselines.py",
        "without_absent_classes(batch.query_x @ means.mT, batch.way)",
        "batch.query_x @ means.mT",
        BASELINES,
    ),
    Mutant("learning/leakage.py", "is_in_imagenet(name) == is_named", "is_named", LEAKAGE),
    Mutant("learning/leakage.py", "zip(kinds, (named, ~named)", "zip(kinds, (named, named)", LEAKAGE),
    Mutant("learning/leakage.py", "(right - share * number)", "right", LEAKAGE),
    Mutant("learning/leakage.py", '"], right=True) - 1  # of the class', '"]) - 1  # of the class', LEAKAGE),
    # Features, and weights of somebody else
    Mutant("backbones/feature_cache.py", "hashes.get(number) != self._hash(number)", "number not in hashes", CACHE),
    Mutant("backbones/feature_cache.py", "lines[1:] if lines[:1] == [self._header] else []", "lines[1:]", CACHE),
    Mutant("backbones/feature_cache.py", '"weights": network.sha256', '"weights": ""', CACHE),
    Mutant("backbones/feature_cache.py", "self._compute(self._missing(classes))", "self._compute(classes)", CACHE),
    Mutant("backbones/feature_cache.py", "if not kept.isfinite().all():", "if False:", CACHE),
    Mutant("backbones/feature_cache.py", 'elif not self._index.read_bytes().endswith(b"\\n"):', "elif False:", CACHE),
    Mutant("tasks/embedded.py", "for key, without in changes:", "for key, without in ():", EMBEDDED),
    Mutant("tasks/embedded.py", "sorted(listed, key=itemgetter(0))", "listed", EMBEDDED),
    Mutant("tasks/embedded.py", "split_of if len(splits) > 1 else None", "split_of", EMBEDDED),
    Mutant("backbones/encoder.py", "if not before.any():", "if False:", ENCODER),
    Mutant("backbones/encoder.py", "if not features.isfinite().all():", "if False:", ENCODER),
    Mutant("backbones/weights_file.py", "            _check_size(path)\n", "", WEIGHTS),
    Mutant("backbones/weights_file.py", "value.dtype not in _NUMBERS", "False", WEIGHTS),
    Mutant("backbones/weights_file.py", "if not value.isfinite().all():", "if False:", WEIGHTS),
    Mutant("backbones/named.py", "return name != DEFAULT", "return False", OUTSIDE),
    Mutant("backbones/named.py", "os.path.realpath(expand(name))", "str(expand(name))", OUTSIDE),
    Mutant("backbones/named.py", 'f"{os.path.realpath(folder)}{os.sep}"', "os.path.realpath(folder)", OUTSIDE),
    Mutant("backbones/named.py", "name.startswith(PREFIX) or not", "not", OUTSIDE),
    Mutant("config/schema.py", "and is_elsewhere(name := values", "and (name := values", OUTSIDE),
    Mutant("config/schema.py", "base is Net and not target.startswith(_PARTS)", "base is Net", NO_YAML),
    Mutant("config/schema.py", " and not is_of_a_type:", ":", NO_YAML),
    Mutant("training/eval_job.py", "(frozenset(values), trust, run)", "(frozenset(values), True, run)", EMBED),
    Mutant("training/continued.py", '{*FREE_TEXT, "model.name", ', "{*FREE_TEXT, ", EMBED),
    Mutant(
        "datasets/parquet_file.py",
        "sum(part.nbytes for part in parts) > room / 2",
        "False",
        "datasets/test_vector_file.py",
    ),
    Mutant("trained/model.py", "if wrong := int(out.isnan().any(1).sum()):", "if wrong := 0:", "trained/test_model.py"),
    # Padding
    Mutant("nets/conv_block.py", "(params, block, x, stats, mask)", "(params, block, x)", MASKS),
    Mutant("algorithms/losses.py", "values.where(mask, 0).sum(1) / mask.sum(1)", "values.mean(1)", MASKS),
    Mutant("algorithms/features.py", "member if support.mask is None else", "member if True else", MASKS),
    Mutant("algorithms/embedding.py", "[query_mask] * self.sees_all", "[None] * self.sees_all", MASKS),
    Mutant("algorithms/tpn.py", "weight * (mask.unsqueeze(1) & mask.unsqueeze(2))", "weight", MASKS),
    Mutant("algorithms/tpn.py", "z = z.where(mask.unsqueeze(2), 0)", "pass", MASKS),
    Mutant("tasks/one_size.py", "rank > most", "rank >= most", "tasks/test_one_size.py"),
    # Predictions without a run
    Mutant("trained/left_out.py", "int(copy.max()) + 1 + label)", "copy)", LEFT_OUT),
    Mutant("trained/left_out.py", "first & _has_other(label, copy)", "first", LEFT_OUT),
    Mutant("trained/left_out.py", "of_class[label] - of_kind[kind]", "of_class[label]", LEFT_OUT),
    Mutant(
        "trained/left_out.py",
        "torch.eye(len(rows), dtype=x.dtype) - own",
        "torch.eye(len(rows), dtype=x.dtype)",
        LEFT_OUT,
    ),
    Mutant("trained/left_out.py", "promised * (len(scores) + 1)", "promised * len(scores)", LEFT_OUT),
    Mutant("trained/by_pretrained.py", "if largest > IDENTICAL:", "if False:", BY_PRETRAINED),
    Mutant("trained/by_pretrained.py", "        if model:\n", "        if False:\n", BY_PRETRAINED),
    Mutant("trained/embedded.py", "if not x.isfinite().all():", "if False:", BY_PRETRAINED),
    Mutant("trained/embedded.py", 'F.normalize(x, dim=-1), "vectors"', 'x, "vectors"', BY_PRETRAINED),
    Mutant("trained/by_pretrained.py", "labels[told.counts], told.guess", "labels, told.guess", BY_PRETRAINED),
    Mutant("trained/by_pretrained.py", "if not (number := len(label)):", "if len(label) < 0:", BY_PRETRAINED),
    Mutant("trained/by_pretrained.py", "if number := len(told.guess):", "if number := 1:", BY_PRETRAINED),
    Mutant("trained/by_pretrained.py", "if told.unlike is None:", "if False:", BY_PRETRAINED),
    Mutant("trained/temperature.py", "STRENGTH * (usual - 1 / middle)", "0", TEMPERATURE),
)


def test_the_faults_and_their_tests_are_where_they_say() -> None:
    for mutant in MUTANTS:
        assert mutant.old in (ROOT / "metalearn_cli" / mutant.file).read_text(), mutant
        assert all((ROOT / "tests" / test.partition("::")[0]).exists() for test in mutant.tests.split()), mutant


@pytest.mark.row("D8", ci=0, full=len(MUTANTS))
def test_a_fault_is_seen(attempt: int, tmp_path: Path) -> None:
    mutant = MUTANTS[attempt]
    shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(".git", "outputs", "benchmarks", ".venv*"))
    path = tmp_path / "copy" / "metalearn_cli" / mutant.file
    before = path.read_text()
    path.write_text(before.replace(mutant.old, mutant.new))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("METALEARN_")}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, *(f"tests/{test}" for test in mutant.tests.split())],
        cwd=tmp_path / "copy",
        env={**environment, "PYTHONPATH": str(tmp_path / "copy")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, f"{mutant} was not seen: {done.stdout[-2000:]}"
