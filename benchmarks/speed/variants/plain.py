"""What users of torch write where no library does it faster: nn.Module, NCHW, one task after another.

Shapes: P weights of a layer, H hidden units of the Meta-LSTM, Q query examples, F features.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.speed import losses, nets, workloads
from benchmarks.speed.runner import Runner, Setting, Unsupported
from benchmarks.speed.workloads import Workload


def build(w: Workload, setting: Setting) -> Runner:
    match w.algorithm:
        case "protonet":
            return _protonet(w, setting)
        case "reptile":
            return _reptile(w, setting)
        case "meta_lstm":
            return _meta_lstm(w, setting)
        case "maml" | "metaoptnet":
            raise Unsupported("the libraries' own loops stand for it")
    return _loop(w, setting)


def _loop(w: Workload, setting: Setting) -> Runner:
    """One task after another by autograd."""
    params = {name: nets.tensor(value, setting).requires_grad_() for name, value in workloads.parameters(w).items()}
    optimizer = torch.optim.Adam(params.values(), 1e-3)
    tasks = list(zip(*nets.batch(w, setting), strict=True))

    def step() -> None:
        optimizer.zero_grad()
        for task in tasks:
            (losses.task_loss(w, params, *task) / w.tasks).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return nets.runner(step, list(params.values()), setting)


def _protonet(w: Workload, setting: Setting) -> Runner:
    """As examples/vision/protonet_miniimagenet.py of learn2learn has it."""
    net = nets.network(w, setting, running_statistics=True)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    xs, _, xq, yq = nets.batch(w, setting)
    x = torch.cat([xs[0], xq[0]])

    def step() -> None:
        features = net(x)
        prototypes = features[: w.support].view(w.way, w.shot, -1).mean(1)
        query = features[w.support :]  # [Q, F]
        logits = -((query.unsqueeze(1) - prototypes.unsqueeze(0)) ** 2).sum(2)
        optimizer.zero_grad()
        F.cross_entropy(logits, yq[0]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return nets.runner(step, list(net.parameters()), setting)


def _reptile(w: Workload, setting: Setting) -> Runner:
    net = nets.network(w, setting)
    params = list(net.parameters())
    optimizer = torch.optim.SGD(params, lr=0.1)
    xs, ys, _, _ = nets.batch(w, setting)

    def step() -> None:
        optimizer.zero_grad()
        for task in range(w.tasks):
            adapted = copy.deepcopy(net)
            inner = torch.optim.Adam(adapted.parameters(), lr=w.inner_lr, betas=(0.0, 0.999))
            for _ in range(w.steps):
                inner.zero_grad()
                nets.loss(w, adapted(xs[task]), ys[task]).backward()  # type: ignore[no-untyped-call]
                inner.step()
            for param, end in zip(params, adapted.parameters(), strict=True):
                moved = (param.data - end.data) / w.tasks
                param.grad = moved if param.grad is None else param.grad + moved
        optimizer.step()

    return nets.runner(step, params, setting)


def _meta_lstm(w: Workload, setting: Setting) -> Runner:
    """The usual loop over the layers' weights, each a batch of coordinates of one LSTM cell."""
    net = nets.network(w, setting)
    names = [name for name, _ in net.named_parameters()]
    start = list(net.parameters())
    cell = nn.LSTMCell(4, w.hidden)
    forget_gate, input_gate = nn.Linear(w.hidden + 2, 1), nn.Linear(w.hidden + 2, 1)
    meta_learner = nn.ModuleList([cell, forget_gate, input_gate]).to(start[0])
    with torch.no_grad():
        values = list(workloads.parameters(w).values())[len(start) :]
        values.insert(3, values[2] * 0)  # torch has two biases, whose sum counts
        for param, value in zip(meta_learner.parameters(), values, strict=True):
            param.copy_(torch.from_numpy(value))
    learned = [*start, *meta_learner.parameters()]
    optimizer = torch.optim.Adam(learned, 1e-3)
    xs, ys, xq, yq = nets.batch(w, setting)

    def forward(theta: list[Tensor], x: Tensor) -> Tensor:
        out: Tensor = functional_call(net, dict(zip(names, theta, strict=True)), (x,))
        return out

    def task_loss(xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
        theta: list[Tensor] = list(start)
        states = [(p.new_zeros(p.numel(), w.hidden), p.new_zeros(p.numel(), w.hidden)) for p in theta]
        gates = [(p.new_zeros(p.numel(), 1), p.new_zeros(p.numel(), 1)) for p in theta]
        for _ in range(w.steps):
            constant = [p.detach().requires_grad_() for p in theta]
            loss = nets.loss(w, forward(constant, xs), ys)
            for i, gradient in enumerate(torch.autograd.grad(loss, constant)):
                flat, old = gradient.reshape(-1, 1), theta[i].reshape(-1, 1)  # [P, 1]
                inputs = torch.cat([_log_sign(loss.detach().expand_as(flat)), _log_sign(flat)], 1)
                states[i] = cell(inputs, states[i])
                forget = forget_gate(torch.cat([states[i][0], old, gates[i][0]], 1))
                enter = input_gate(torch.cat([states[i][0], old, gates[i][1]], 1))
                gates[i] = forget, enter
                theta[i] = (torch.sigmoid(forget) * old - torch.sigmoid(enter) * flat).view_as(theta[i])
        return nets.loss(w, forward(theta, xq), yq)

    def step() -> None:
        optimizer.zero_grad()
        for task in range(w.tasks):
            (task_loss(xs[task], ys[task], xq[task], yq[task]) / w.tasks).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    compared = [param for param in learned if param is not cell.bias_hh]
    return nets.runner(step, compared, setting)


def _log_sign(x: Tensor, p: float = 10.0) -> Tensor:
    """The preprocessing of gradients and losses, x [P, 1] -> [P, 2]."""
    large = (x.abs() >= torch.exp(x.new_tensor(-p))).to(x)
    size = large * (x.abs() + 1e-38).log() / p - (1 - large)
    return torch.cat([size, large * torch.sign(x) + (1 - large) * torch.exp(x.new_tensor(p)) * x], 1)
