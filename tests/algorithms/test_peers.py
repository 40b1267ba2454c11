"""Our heads beside those of EasyFSL and LibFewShot, on the same features in float64; skipped where a peer is absent.

EasyFSL: pip install easyfsl (1.5.0). LibFewShot: a checkout on PYTHONPATH, whose package is called `core`. Where a peer
computes something else, the test says what, and compares what is left without it.

Shapes: T tasks, S support and Q query examples of a task, F features, C channels.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import images, init
from torch import Tensor, nn

from metalearn_cli.algorithms.base import Meta
from metalearn_cli.algorithms.embedding import loss_of_all_classes
from metalearn_cli.algorithms.feat import FEAT
from metalearn_cli.algorithms.features import BASE_MEAN, Centre, Normalise, members
from metalearn_cli.algorithms.fine_tune import Classifier, FineTune, HeadStart
from metalearn_cli.algorithms.laplacian_shot import LaplacianShot
from metalearn_cli.algorithms.matching import Matching
from metalearn_cli.algorithms.metaoptnet import Head, MetaOptNet
from metalearn_cli.algorithms.protonet import Nearness, ProtoNet
from metalearn_cli.algorithms.relation import BLOCKS, HIDDEN, OUTPUT, Relation, relations
from metalearn_cli.algorithms.ridge import Ridge
from metalearn_cli.algorithms.solvers import with_ones
from metalearn_cli.algorithms.tim import TIM
from metalearn_cli.algorithms.tpn import TPN
from metalearn_cli.nets.base import Call, Params
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.layers import linear
from metalearn_cli.tasks.base import Support

TASKS, WAY, SHOT, WIDTH = 2, 3, 2, 6
LAYERS = ("query", "key", "value", "fc")  # of FEAT's attention
PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # of torch's LSTM


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    """The peers make tensors of torch's default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def easyfsl() -> Any:
    return pytest.importorskip("easyfsl.methods", exc_type=ImportError)


def libfewshot(module: str) -> Any:
    return pytest.importorskip(f"core.model.{module}", exc_type=ImportError)


def episode(shot: int = SHOT) -> tuple[Support, Tensor]:
    """Features of a support set [T, S, F], ordered by class, and of a query set [T, Q, F]."""
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(WAY).repeat_interleave(shot).expand(TASKS, -1)
    support = torch.rand(TASKS, WAY * shot, WIDTH, generator=rng)
    return Support(support, y, torch.arange(TASKS)), torch.rand(TASKS, 3 * WAY, WIDTH, generator=rng)


def predicted(model: Any, support: Support, query: Tensor) -> Tensor:
    """What a method of EasyFSL says of each task, [T, Q, way]."""
    outs = []
    for x, y, of_task in zip(support.x, support.y, query, strict=True):
        model.process_support_set(x, y)
        outs.append(model(of_task))
    return torch.stack(outs).detach()


def attention() -> Params:
    """Random parameters of FEAT."""
    rng = torch.Generator().manual_seed(1)
    params = {f"feat:{layer}.weight": torch.randn(WIDTH, WIDTH, generator=rng) for layer in LAYERS}
    vectors = ("fc.bias", "norm.weight", "norm.bias")
    return params | {f"feat:{vector}": torch.rand(WIDTH, generator=rng) for vector in vectors}


def with_attention(module: nn.Module) -> Any:
    """The peers' module, which has the authors' names, with those parameters."""
    own = {"query": "w_qs", "key": "w_ks", "value": "w_vs", "fc": "fc", "norm": "layer_norm"}
    names = {f"feat:{ours}.{part}": f"{theirs}.{part}" for ours, theirs in own.items() for part in ("weight", "bias")}
    module.load_state_dict({names[name]: value for name, value in attention().items()})
    return module.eval()


def test_easyfsls_prototypical_networks(easyfsl: Any) -> None:
    """Theirs has distances, the paper and ours their squares."""
    support, query = episode()
    theirs = predicted(easyfsl.PrototypicalNetworks(), support, query)
    ours = ProtoNet().logits(Meta({}, {}), support, WAY, support.x, query)
    torch.testing.assert_close(ours, -theirs.square())


def test_easyfsls_simple_shot(easyfsl: Any) -> None:
    """Theirs compares angles, also with the mean; the paper has distances to it, algo.metric=euclid."""
    support, query = episode()
    centre = torch.linspace(0, 1, WIDTH)
    theirs = predicted(easyfsl.SimpleShot(feature_centering=centre, feature_normalization=2), support, query)
    protonet = ProtoNet(metric=Nearness.cosine, normalise=Normalise.l2, centre=Centre.base)
    meta = Meta({"scale": torch.tensor(7.0)}, {BASE_MEAN: centre})
    torch.testing.assert_close(protonet.logits(meta, support, WAY, support.x, query), 7 * theirs)


def test_easyfsls_matching_networks(easyfsl: Any) -> None:
    """Theirs does not normalise queries, so that their length is our temperature, and adds 1e-6 to probabilities. Its
    reading LSTM starts from f'(x) and ours, as the paper's, from 0: without weights it adds nothing."""
    support, query = episode()
    query = 10 * F.normalize(query, dim=-1)
    model = easyfsl.MatchingNetworks(feature_dimension=WIDTH)
    for value in model.query_features_encoding_cell.parameters():
        nn.init.zeros_(value)
    params = {}
    for name, suffix in (("forward", ""), ("backward", "_reverse")):
        theirs = {part: getattr(model.support_features_encoder, f"{part}_l0{suffix}") for part in PARTS}
        params |= {f"fce:{name}.{part}": theirs[part].detach() for part in PARTS[:2]}
        params[f"fce:{name}.bias"] = (theirs["bias_ih"] + theirs["bias_hh"]).detach()
    outs = []
    for x, y, of_task in zip(support.x, support.y, query, strict=True):
        model.process_support_set(x, y)
        model.one_hot_support_labels = model.one_hot_support_labels.double()
        outs.append(model(of_task).detach())
    matching = Matching(temperature=10.0, fce=True, reads=0)
    ours = matching.log_probabilities(params, support, WAY, support.x, query)
    torch.testing.assert_close(ours.exp() + 1e-6, torch.stack(outs).exp())


def test_easyfsls_relation_networks(easyfsl: Any) -> None:
    """Theirs puts the mean of a class before the query, ours, as the paper, the sum. g is ours."""
    spec, batch = images(tasks=1)
    meta = init(Relation(), Conv4(spec, filters=2))
    maps, query = (torch.rand(1, count, 2, 4, 4) for count in (WAY * SHOT, 5))
    layers: list[nn.Module] = []
    for inputs in (4, 2):
        layers += [nn.Conv2d(inputs, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2)]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    names = [f"{block}.{part}" for block in BLOCKS for part in ("conv.weight", "norm.weight", "norm.bias")]
    names += [f"{layer}.{part}" for layer in (HIDDEN, OUTPUT) for part in ("weight", "bias")]
    with torch.no_grad():
        for value, name in zip(module.parameters(), names, strict=True):
            value.copy_(meta.params[name])
        model = easyfsl.RelationNetworks(feature_dimension=2, relation_module=module)
        model.process_support_set(maps[0], batch.support_y[0])
        model.prototypes = model.prototypes * SHOT
        ours, _ = relations(meta.params, members(batch.support, WAY), maps, query, Call())
        torch.testing.assert_close(ours[0], model(query[0]))


def test_easyfsls_tim(easyfsl: Any) -> None:
    """Theirs has cosines where the paper and ours have -||x - w||^2 / 2, and adds 1e-12 to probabilities."""
    support, query = episode()
    query, support = F.normalize(query, dim=-1), support._replace(x=F.normalize(support.x, dim=-1))
    model = easyfsl.TIM(
        fine_tuning_steps=5, fine_tuning_lr=0.01, cross_entropy_weight=0.3, marginal_entropy_weight=0.7, temperature=15
    )
    model.cosine_distance_to_prototypes = lambda x: x @ model.prototypes.T - model.prototypes.square().sum(1) / 2
    theirs = predicted(model, support, query)
    tim = TIM(iterations=5, lr=0.01, support_weight=0.3, balance=0.7)
    ours = tim.joint_logits(support, WAY, query, None)
    torch.testing.assert_close(ours, 15 * theirs, rtol=0, atol=1e-7)


def test_easyfsls_laplacian_shot(easyfsl: Any) -> None:
    """Theirs rectifies by weights e^cos that sum to 1, and does not move the queries: that is left out. It stops where
    its bound does: three steps come before that."""
    support, query = episode()
    model = easyfsl.LaplacianShot(inference_steps=3, lambda_regularization=0.7, feature_normalization=2)
    model.rectify_prototypes = lambda query_features: None
    laplacian_shot = LaplacianShot(0.7, neighbours=2, iterations=3, rectify=False)
    unit = support._replace(x=F.normalize(support.x, dim=-1))
    ours = laplacian_shot.joint_logits(unit, WAY, F.normalize(query, dim=-1), None)
    torch.testing.assert_close(ours.softmax(-1), predicted(model, support, query))


def test_easyfsls_feat(easyfsl: Any) -> None:
    """Theirs has distances, without a temperature, and the paper and ours their squares."""
    attend = pytest.importorskip("easyfsl.modules").MultiHeadAttention
    support, query = episode()
    model = easyfsl.FEAT(attention_module=with_attention(attend(1, WIDTH, WIDTH, WIDTH)))
    ours = FEAT(temperature=1.0).logits(attention(), support, WAY, support.x, query)
    torch.testing.assert_close(ours, -predicted(model, support, query).square())


def test_easyfsls_finetune(easyfsl: Any) -> None:
    """Theirs takes steps of Adam on the means, under cosines; ours steps of SGD, on a length of each class as well. The
    first step has one slope g on both sides: Adam's is rate g / (|g| + 1e-8)."""
    support, query = episode()
    model = easyfsl.Finetune(fine_tuning_steps=1, fine_tuning_lr=0.01, temperature=4.0)
    keys = {"passes": 1, "batch_size": None, "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    ours = FineTune(Classifier.cosine, scale=4.0, start=HeadStart.means, **keys)  # type: ignore[arg-type]
    spec, _ = images(way=WAY)
    start = ours.start_of_head(spec, support, support.x)
    tuned = ours.tuned(spec, start, support, lambda _, x: x)["head.weight"]
    slope = start["head.weight"] - tuned
    for task, (x, y, of_task) in enumerate(zip(support.x, support.y, query, strict=True)):
        model.process_support_set(x, y)
        model(of_task)
        expected = start["head.weight"][task] - 0.01 * slope[task] / (slope[task].abs() + 1e-8)
        torch.testing.assert_close(expected, model.prototypes.detach(), rtol=0, atol=1e-7)


def test_libfewshots_prototypes() -> None:
    layer = libfewshot("metric.proto_net").ProtoLayer()
    support, query = episode()
    theirs = [layer(query, support.x, WAY, SHOT, 3, mode) for mode in ("euclidean", "cos_sim")]
    meta = Meta({"scale": torch.tensor(7.0)}, {})
    for metric, expected in zip(Nearness, (theirs[0], 7 * theirs[1]), strict=True):
        torch.testing.assert_close(ProtoNet(metric).logits(meta, support, WAY, support.x, query), expected)


def test_libfewshots_ridge_regression() -> None:
    """Theirs is that of MetaOptNet's authors: without ones, and half of what their paper minimises."""
    layer = libfewshot("meta.r2d2").R2D2Layer()
    support, query = episode()
    theirs = layer(WAY, SHOT, query, support.x, support.y)[0].detach()
    scale = {"metaoptnet:scale": torch.tensor(0.5)}
    metaoptnet = MetaOptNet(Head.ridge, penalty=50.0)
    ours = metaoptnet.logits(scale, members(support, WAY), 1, support.x, query)
    torch.testing.assert_close(ours, theirs)
    with_bias = layer(WAY, SHOT, *(with_ones(part) for part in (query, support.x)), support.y)[0].detach()
    ridge = Ridge(penalty=50.0).logits({"ridge:scale": torch.tensor(1.0)}, support, WAY, support.x, query)
    torch.testing.assert_close(ridge, with_bias)


def test_libfewshots_feat() -> None:
    """Theirs is for one task at a time, ordered by class; its loss weighs the first term by `balance`, ours, as the
    paper, the second."""
    feat = libfewshot("metric.feat")
    support, query = episode()
    support = Support(support.x[:1], support.y[:1], support.key[:1])
    query, labels = query[:1], torch.arange(WAY).repeat_interleave(3)[None]
    by_class = [part.view(1, WAY, -1, WIDTH) for part in (support.x, query)]
    model = object.__new__(feat.FEAT)
    nn.Module.__init__(model)
    sizes = {"episode_size": 1, "way_num": WAY, "shot_num": SHOT, "query_num": 3, "hdim": WIDTH}
    settings = {"mode": "euclidean", "temperature": 2.0, "temperature2": 3.0}
    sets = {"support_feat": support.x, "query_feat": query, "feat": torch.cat(by_class, 2).flatten(0, 2)}
    for name, value in (sizes | settings | sets).items():
        setattr(model, name, value)
    model.slf_attn = with_attention(feat.MultiHeadAttention(1, WIDTH, WIDTH, WIDTH))
    model.proto_layer = feat.ProtoLayer(WAY, SHOT, 3)
    ours = FEAT(temperature=2.0, contrast_temperature=3.0)
    both = support._replace(x=torch.cat([support.x, query], 1), y=torch.cat([support.y, labels], 1))
    contrast = ours.contrast(attention(), both, WAY)
    contrast = torch.cat([part.view(1, WAY, -1, WAY) for part in contrast.split([WAY * SHOT, WAY * 3], 1)], 2)
    torch.testing.assert_close(contrast.view(-1, WAY), model._calc_reg_logits().detach())
    logits = ours.logits(attention(), support, WAY, support.x, query)
    torch.testing.assert_close(logits, model._calc_logits().detach())


def test_libfewshots_label_propagation() -> None:
    """Theirs sums squares over features where the paper's code, and ours, takes their mean; g is ours, and the loss is
    all that it returns. Degrees have 1e-7 more."""
    tpn = libfewshot("metric.tpn")
    rng = torch.Generator().manual_seed(0)
    features, query = (3 * torch.rand(1, count, 1600, generator=rng) for count in (WAY * SHOT, WAY * 3))
    y, labels = (torch.arange(WAY).repeat_interleave(each)[None] for each in (SHOT, 3))
    params = {"tpn:0.weight": torch.rand(8, 1600, generator=rng) / 1600, "tpn:0.bias": torch.rand(8, generator=rng)}
    params |= {"tpn:1.weight": torch.rand(1, 8, generator=rng) / 8, "tpn:1.bias": torch.tensor([-1.0])}
    model = object.__new__(tpn.TPN)
    nn.Module.__init__(model)
    settings = {"rn": 300, "topk": 4, "eps": torch.finfo(torch.float32).eps, "alpha": 0.9, "device": "cpu"}
    for name, value in (settings | {"way_num": WAY, "shot_num": SHOT, "query_num": 3}).items():
        setattr(model, name, value)
    model.emb_func = nn.Identity()

    def scale(z: Tensor) -> Tensor:
        return F.softplus(linear(params, "tpn:1", linear(params, "tpn:0", z[None]).relu()))[0] * 40  # root of 1600

    model.relation = scale
    theirs, _ = model.label_propagation(features[0], query[0], *(F.one_hot(part[0]).double() for part in (y, labels)))
    support = Support(features, y, torch.arange(1))
    ours = TPN(alpha=0.9, neighbours=4).spread(params, support, WAY, features, query, None)
    torch.testing.assert_close(F.cross_entropy(ours[0], torch.cat([y, labels], 1)[0]), theirs, rtol=0, atol=1e-5)


def test_libfewshots_label_smoothing() -> None:
    """Theirs shares a part of each label among all classes, MetaOptNet's code and ours among the others."""
    smoothed = libfewshot("loss").LabelSmoothCELoss(1.0)
    out, y = torch.rand(1, 8, WAY), torch.zeros(8, dtype=torch.int64)
    torch.testing.assert_close(loss_of_all_classes(out, None, torch.tensor([WAY]))[0], smoothed(out[0], y))
