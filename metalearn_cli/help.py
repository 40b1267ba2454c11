"""What `--help` prints."""

HELP = """\
metalearn: train, test and compare few-shot learners

  metalearn train algo=maml task=sinusoid steps=1000 name=my-run    meta-train and meta-test
  metalearn eval run=outputs/my-run test_episodes=1000              test a finished run once more
  metalearn bench experiment=maml/omniglot_5w1s                     how fast it trains here, and where the time goes
  metalearn list algo|task|model|optimizer|experiment|debug|sweep|metric  what there is, a line each
  metalearn data prepare|verify|path omniglot                       get a data set, check it, or say where it is
  metalearn train --help                                            examples, and how the keys work
  eval "$(metalearn completion bash)"                               completion of commands, keys, values, runs; or zsh
  metalearn completion fish | source                                the same in fish
  metalearn --version

Exit codes: 0 done, 1 a mistake or a failed run, 2 unknown command or option, 3 `expect` not met, 130 interrupted,
143 terminated, 129 terminal closed.
"""

TRAIN_HELP = """\
metalearn train [key=value ...] [-m] [--cfg job]

  metalearn train algo=maml task=sinusoid                     a task chooses a fitting network
  metalearn train algo=protonet                               an algorithm may choose a task
  metalearn train experiment=maml/sinusoid task.shot=5        a row of a paper, with one key changed
  metalearn train algo=maml algo.first_order=true steps=5000 name=my-run
                                                              the same line again continues outputs/my-run
  metalearn train algo=maml name=ci expect='mse_step1<=3.5'   exit code 3 where the test falls short
  metalearn train -m algo=maml,protonet task=omniglot seed=0,1,2 name=my-sweep
                                                              a sweep: one folder per job, outputs/my-sweep/...
  metalearn train debug=quick algo=maml                       everything once: 20 steps and a small test
  metalearn train experiment=maml/sinusoid --cfg job          print the configuration, do nothing
  metalearn train algo._target_=my_file.MyAlgorithm +algo.my_key=1
                                                              your own class, from a file beside you

Keys: conf/config.yaml and the folders beside it explain each where its value stands.
Without a name the run's folder is outputs/<date>/<time>-<algo>-<task>-<id>, which no other launch gets.
Ctrl-C, SIGTERM and a closed terminal finish the step and save; a second signal leaves at once.
With -m, hydra/launcher=... and hydra/sweeper=... choose who starts the jobs and who chooses their values.
"""

EVAL_HELP = """\
metalearn eval run=FOLDER [key=value ...]

  metalearn eval run=outputs/my-run test_episodes=1000        more episodes; the first 600 are the same
  metalearn eval run=outputs/my-run algo.test_steps=50        more inner steps
  metalearn eval run=outputs/my-run task.shot=5               other tasks of the same distribution
  metalearn eval run=outputs/my-run task=cifar_fs             another distribution; images get the run's size and
                                                              channels, and what was done is said and recorded
  metalearn eval run=outputs/my-run batch_norm=inductive      another headline; the others stand beside it

The run's own model and settings are used, but for keys that are given (precision and device among them). Results go to
FOLDER/eval/<task>-<id>, which the last line says; the id is made of what is tested: the same command finds its results
again, and another never overwrites them.
"""

BENCH_HELP = """\
metalearn bench [key=value ...]

  metalearn bench experiment=maml/sinusoid                    what `train` with the same keys would do, for a minute
  metalearn bench experiment=maml/omniglot_5w1s threads=1     needs the task's data, as `train` does
  metalearn bench algo=maml task=sinusoid device=cuda precision=tf32

Prints tasks per second; the rate of a step's matrix products and convolutions beside that of a plain product on the
same device, measured in turn; the peak of memory; and how long each part takes: drawing tasks, gathering them on the
device, the step, and the episodes of a validation and of a test (in every batch-norm mode). Nothing is written, so that
name, steps and other keys of a run's course change nothing here.
"""

DATA_HELP = """\
metalearn data prepare|verify|path NAME [archive=FILE] [root=FOLDER]

  metalearn data prepare omniglot                             fetch it, check it and pack it; a second time does nothing
  metalearn data prepare cub archive=CUB_200_2011.tgz         the same from an archive (zip, tar, tar.gz) that you have
  metalearn data verify omniglot                              read it and what is packed of it to the last byte
  metalearn data path omniglot                                where it is, and where it is packed, a line each
  metalearn list task                                         what there is, and what is found here

NAME is that of a task. A data set is in $METALEARN_DATA/<its folder>, or in root=FOLDER (for a run: task.root=FOLDER).
Where a licence wants that you fetch it yourself, prepare says how. Fetching goes on where a broken line has left off.
"""

LIST_HELP = "metalearn list algo|task|model|optimizer|experiment|debug|sweep|metric\n"

HELPS = {"train": TRAIN_HELP, "eval": EVAL_HELP, "bench": BENCH_HELP, "data": DATA_HELP, "list": LIST_HELP}
COMMANDS = (*HELPS, "completion")
