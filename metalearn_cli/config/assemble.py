"""The learner of a job, on the device that it names."""

from fnmatch import fnmatchcase

from metalearn_cli.config.job import Job
from metalearn_cli.errors import UserError
from metalearn_cli.learning.learner import Learner
from metalearn_cli.learning.step import Execution
from metalearn_cli.nets.base import Params
from metalearn_cli.nets.bfloat16 import Reduced
from metalearn_cli.seeding import generator
from metalearn_cli.system.compiled import require_compiler
from metalearn_cli.system.cuda_graph import require_gpu
from metalearn_cli.system.device import Precision, check_precision, own_device
from metalearn_cli.system.limits import parse_factor
from metalearn_cli.system.ranks import ALONE, Ranks


def require_shares(job: Job, ranks: Ranks) -> None:
    """Raises UserError where a training cannot be split over these ranks."""
    settings = job.run
    if settings.tasks_per_step % ranks.size:
        fitting = ranks.size * max(1, round(settings.tasks_per_step / ranks.size))
        uneven = f"tasks_per_step={settings.tasks_per_step} cannot be split evenly over {ranks.size} ranks"
        raise UserError(f"{uneven}: give a multiple, e.g. {fitting}, or start another number of ranks")
    for key in ("compile", "cuda_graph"):
        if ranks.size > 1 and getattr(settings, key):
            raise UserError(f"{key}=true is for one process, and these are {ranks.size} ranks: give {key}=false")


def require_parts(job: Job, ranks: Ranks = ALONE) -> Params:
    """The parameters and buffers that will be learned. Raises UserError for parts or a device that do not fit."""
    device = own_device(job.run.device, ranks)
    check_precision(job.run.precision, device)
    if job.run.compile:
        require_compiler(device)
    if job.run.cuda_graph:
        require_gpu(device)
    params, buffers = job.algo.init(job.net, generator(job.run.seed, "init"))
    if job.run.steps > 0 and not params and not buffers:
        others = "model.frozen=false, which trains the network" if job.weights else "a network that learns features"
        example = "" if job.weights else ", e.g. model=mlp"
        raise UserError(
            f"algo={job.choices['algo']} with model={job.choices['model']} has nothing to learn: give steps=0, which "
            f"tests it as it is, or {others}{example}"
        )
    for pattern, _ in map(parse_factor, job.optimizer.rates):
        if not any(fnmatchcase(name, pattern) for name in params):
            layers = ", ".join(dict.fromkeys(name.partition(".")[0] for name in params))
            raise UserError(f"optimizer.rates: {pattern} fits no parameter; their names begin with {layers}")
    groups = {"params": params, "buffers": buffers}
    return {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}


def new_learner(job: Job, ranks: Ranks = ALONE) -> Learner:
    """The learner of step 0. Raises UserError where the device is missing or the parts do not fit together."""
    settings = job.run
    device = own_device(settings.device, ranks)
    check_precision(settings.precision, device)
    rng = generator(settings.seed, "init")
    net = Reduced(job.net.spec, job.net) if settings.precision is Precision.bf16 else job.net
    chunk = settings.tasks_per_chunk if isinstance(settings.tasks_per_chunk, int) else None
    execution = Execution(
        device, settings.dtype, chunk, settings.compile, settings.cuda_graph, ranks, max(settings.steps, 1)
    )
    return Learner(job.algo, net, job.optimizer, rng, execution)
