"""What `--help` prints."""

HELP = """\
metalearn: train, test and compare few-shot learners

  metalearn train algo=maml task=sinusoid steps=1000 name=my-run    meta-train and meta-test
  metalearn eval run=outputs/my-run test_episodes=1000              test a finished run once more
  metalearn reproduce maml/sinusoid                                 a paper's row: train, test, what was published
  metalearn compare outputs/a outputs/b                             which is better, on the same test episodes
  metalearn report outputs/my-run outputs/my-sweep                  a table, results.csv and a page of figures
  metalearn predict run=outputs/my-run support=DIR query=DIR        what your own pictures (or points) are
  metalearn export run=outputs/my-run out=DIR                       a run as a small folder, for predict and for Python
  metalearn bench experiment=maml/omniglot_5w1s                     how fast it trains here, and where the time goes
  metalearn list algo|task|model|optimizer|experiment|debug|sweep|metric  what there is, a line each
  metalearn data prepare|verify|path omniglot                       get a data set, check it, or say where it is
  metalearn data list                                               which sets are packed; data clean removes some
  metalearn doctor                                                  what is here, what is wrong, how to mend it
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
  metalearn train -m task=table task.root=a.csv,b.csv         the same over files or folders; choice(a,b) if in doubt
  metalearn train -m sweep=optuna 'algo.inner_lr=tag(log,interval(0.001,1))' hydra.sweeper.n_trials=30 name=search
                                                              Optuna chooses the values by validation results
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
  metalearn eval run=outputs/my-run task=image_folder task.root=DIR
                                                              your own pictures, prepared as `predict` prepares them
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

REPRODUCE_HELP = """\
metalearn reproduce NAME ... [--seeds 0,1,2] [--budget 30m] [results=FILE] [key=value ...]
metalearn reproduce --list
metalearn reproduce --table omniglot [results=FILE]

  metalearn reproduce maml/sinusoid --seeds 0,1,2             trains the row with each seed, tests it, and prints the
                                                              paper's figure, what came out, and how they stand
  metalearn reproduce maml/omniglot_5w1s --budget 30m         as many steps as fit, which makes it a short run, and it
                                                              is called one; the final test comes on top
  metalearn reproduce protonet/omniglot_5w1s device=cuda      where and how fast: device, threads, compile ...; a key
                                                              that would make another row of it is refused
  metalearn reproduce --list                                  all rows, with the published figures
  metalearn reproduce --table sinusoid                        what was measured of the rows on a task

The runs are outputs/reproduce/NAME/seed=N; the same command again continues them, and takes what is finished as it is.
Each becomes a line of outputs/reproduce/results.jsonl, or of results=FILE. In a checkout --table shows what its authors
have measured (benchmarks/papers/results.jsonl) beside yours; `reproduce` writes to that file only if results= names it.
"""

COMPARE_HELP = """\
metalearn compare FOLDER FOLDER ... [step=K] [batch_norm=MODE] [out=FILE.json]

  metalearn compare outputs/a outputs/b                       b minus a, paired by test episode, with its 95% interval
  metalearn compare outputs/a/eval/omniglot-1a2b3c4d outputs/b/eval/omniglot-5e6f7a8b
  metalearn compare outputs/sweep-a outputs/sweep-b           the seeds of a sweep are repetitions of one configuration
  metalearn compare outputs/my-sweep                          its configurations, each against the first
  metalearn compare 'outputs/maml-s*' 'outputs/anil-s*'       a pattern in quotes is one side
  metalearn compare outputs/a outputs/b step=1                after the first inner step, not after the last
  metalearn compare outputs/a outputs/b batch_norm=running    both in one batch-norm mode, where headlines differ

All must have been tested on the same episodes, or one on the first of another's, which their hashes prove. The interval
over episodes speaks of these very models; with two seeds or more on both sides there is one over seeds, and one over
both. p is of Student's t; of several comparisons with the first, Holm's correction. Exit codes: 0, and 1 for a mistake.
"""

REPORT_HELP = """\
metalearn report FOLDER ... [out=FILE.html] [csv=FILE.csv]

  metalearn report outputs/my-run                             a table here; report.html and results.csv in that folder
  metalearn report outputs/a outputs/my-sweep outputs/b/eval/omniglot-1a2b3c4d out=page.html csv=table.csv
  metalearn report 'outputs/maml-s*' csv=null                 a pattern in quotes; no csv

Of several folders both stand beside them, by their names: outputs/report-a-b-1a2b3c4d.html; the last line says where.
The page is one file that loads nothing from anywhere: it can be sent, printed and kept. A run that is not finished is
shown as far as it has come, with the command that goes on with it. Neither data nor checkpoints are read.
Of a sweep one sentence names the best setting: chosen on validation, with the mean of the test over its seeds and the
95% interval. A job that failed is named with its sentence here, in the csv (state, failed) and on the page, and what is
damaged or missing in a folder with its file and line. Exit codes: 0 where there is a report, whatever it says of jobs
(`train -m` has 1 where one failed), and 1 where there is none.
"""

PREDICT_HELP = """\
metalearn predict run=FOLDER support=DIR|CSV query=DIR|FILES|PATTERN|CSV [out=FILE] [key=value ...]

  metalearn predict run=outputs/my-run support=labelled query=photos            a table on the screen
  metalearn predict run=outputs/my-run support=labelled query=photos out=predictions.csv      or .json
  metalearn predict run=outputs/my-run support=labels.csv query=a.jpg,b.png     labels.csv has the columns path,label
  metalearn predict run=outputs/my-run support=labelled query='photos/*.png'    or 'photos/**/*.png': folders in it too
  metalearn predict run=my-model support=labelled query=photos                  a folder that `export` made
  metalearn predict run=outputs/my-sinusoid support=points.csv query=more.csv   columns x (or x1, x2, ...) and y

support: a folder whose folders are the classes, each with one picture or more; or a CSV, whose paths begin at its own
folder. query: pictures without labels. They become what the run's own images are, whatever their size and mode.
Out come path, label, the probability p_CLASS of each class, and `unlike`: true for a query that looks like no class, by
a threshold from validation tasks, of which a sentence says what it promises. Where it cannot be measured, the column is
left out. A run on ink (Omniglot) makes the paper white and the ink black first, whatever the light: ink=as_is does not.
Of points x and y come out, and `outside_training`: true where x is outside of the range of the training tasks' inputs.
Any number of classes: where a learned head has another, each class starts at the mean of its rows, which is said.

batch_norm=inductive (the default; see metalearn eval --help), device, precision, threads, allocator, algo.test_steps,
trust: as in eval; other batch_norm= than transductive leave a prediction independent of the other queries.
"""

EXPORT_HELP = """\
metalearn export run=FOLDER out=DIR [device=...] [threads=...] [trust=true]

  metalearn export run=outputs/my-run out=my-model            needs neither the run nor its data afterwards
  metalearn predict run=my-model support=DIR query=DIR
  python -c 'import metalearn_cli; model = metalearn_cli.load("my-model")'

DIR gets model.json and the weights (safetensors; their hash stands in model.json). Loading it runs no code, but for
classes from outside of metalearn, which want trust=true.
"""

DATA_HELP = """\
metalearn data prepare|verify|path NAME [archive=FILE] [root=FOLDER]
metalearn data list
metalearn data clean NAME ... | unused=DAYS

  metalearn data prepare omniglot                             fetch it, check it and pack it; a second time does nothing
  metalearn data prepare cub archive=CUB_200_2011.tgz         the same from an archive (zip, tar, tar.gz) that you have
  metalearn data prepare image_folder task.root=DIR           packs a folder of your own, with any key of the task
  metalearn data verify omniglot                              read it and what is packed of it to the last byte
  metalearn data path omniglot                                where it is, and where it is packed, a line each
  metalearn data list                                         what is packed: name, size, last use, and of what it is
  metalearn data clean unused=30                              removes what was not used for so many days
  metalearn data clean omniglot                               removes what is packed of it; or a name that list shows
  metalearn list task                                         what there is, and what is found here

NAME is that of a task. A data set is in $METALEARN_DATA/<its folder>, or in root=FOLDER (for a run: task.root=FOLDER).
Where a licence wants that you fetch it yourself, prepare says how. Fetching goes on where a broken line has left off.
Packed sets are in $METALEARN_CACHE (~/.cache/metalearn): what is removed is packed anew from its source when it is
wanted, and what a running process uses is kept. A folder of your own that has changed leaves its old set there.
"""

DOCTOR_HELP = """\
metalearn doctor

  metalearn doctor                                            in the folder and the environment that you train in
  METALEARN_DATA=/data metalearn doctor                       which data sets are found there, and how to get the others

A line each: the versions of metalearn, Python and what it needs; the optional parts; the device that device=auto takes,
and the threads; each data set, and whether it is packed; whether the cache and outputs can be written and locked, and
have space left; and three steps of a training. First in a line stands ok, note (some things will not work, or not so
fast) or WRONG (nothing that needs it works), then what to do. Nothing is fetched, changed or left behind.

Exit codes: 0 nothing is wrong, 1 something is.
"""

LIST_HELP = "metalearn list algo|task|model|optimizer|experiment|debug|sweep|metric\n"

HELPS = {
    "train": TRAIN_HELP,
    "eval": EVAL_HELP,
    "reproduce": REPRODUCE_HELP,
    "compare": COMPARE_HELP,
    "report": REPORT_HELP,
    "predict": PREDICT_HELP,
    "export": EXPORT_HELP,
    "bench": BENCH_HELP,
    "data": DATA_HELP,
    "doctor": DOCTOR_HELP,
    "list": LIST_HELP,
}
COMMANDS = (*HELPS, "completion")
