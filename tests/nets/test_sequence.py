"""Networks over sequences: what a point sees, whatever else stands in the tensors."""

import pytest
import torch
from torch import Tensor

from metalearn_cli.nets.base import Params
from metalearn_cli.nets.causal_transformer import CausalTransformer
from metalearn_cli.nets.sequence import order_of
from metalearn_cli.nets.set_net import Context, ContextNet, attend
from metalearn_cli.nets.snail_net import SnailNet

TRANSFORMER = CausalTransformer(targets=2, outputs=3, width=4, layers=2, heads=2, points=9)
SNAIL = SnailNet(targets=2, outputs=3, width=1, layers=3)
EACH = pytest.mark.parametrize("net", [TRANSFORMER, SNAIL], ids=["transformer", "snail"])


def problem(net: ContextNet, shot: int = 6, queries: int = 3) -> tuple[Params, Context, Tensor]:
    rng = torch.Generator().manual_seed(0)
    params = {name: value.double() + 0.3 * torch.randn(value.shape, generator=rng, dtype=torch.float64)
              for name, value in net.init(4, rng).items()}  # fmt: skip
    x, y, query = (torch.randn(2, n, size, generator=rng, dtype=torch.float64)
                   for n, size in ((shot, 4), (shot, 2), (queries, 4)))  # fmt: skip
    return params, Context(x, y), query


@EACH
def test_a_target_sees_all_of_the_context_and_no_other_target(net: ContextNet) -> None:
    params, context, query = problem(net)
    out = net(params, context, query)
    assert out.shape == (2, 3, 3)
    torch.testing.assert_close(net(params, context, query[:, 1:2]), out[:, 1:2], rtol=1e-10, atol=1e-12)
    for i in range(6):
        y = context.y.clone()
        y[:, i] += 1
        assert ((net(params, context._replace(y=y), query) - out).abs().amax(-1) > 1e-6).all()
    assert (net(params, Context(context.x.flip(1), context.y.flip(1)), query) - out).abs().min() > 1e-6  # order counts
    assert net(params, Context(context.x[:, :0], context.y[:, :0]), query).isfinite().all()


@EACH
def test_points_that_are_not_real_change_nothing_wherever_they_stand(net: ContextNet) -> None:
    params, context, query = problem(net)
    expected = net(params, context, query)
    for places in ([6], [0], [2], [1, 4]):
        x, y, real = context.x, context.y, torch.ones(2, 6, dtype=torch.bool)
        for place in places:
            x, y, real = (
                torch.cat([value[:, :place], torch.full_like(value[:, :1], filling), value[:, place:]], 1)
                for value, filling in ((x, 7.0), (y, 7.0), (real, False))
            )
        torch.testing.assert_close(net(params, Context(x, y, real), query), expected, rtol=1e-9, atol=1e-11)


def test_a_sequence_is_its_prefixes() -> None:
    """The output of each point is that of a target after the points before it: it depends on no later token."""
    params, context, _ = problem(TRANSFORMER)
    along = TRANSFORMER.along(params, context)
    for i in range(6):
        prefix = Context(context.x[:, :i], context.y[:, :i])
        expected = TRANSFORMER(params, prefix, context.x[:, i : i + 1])
        torch.testing.assert_close(along[:, i : i + 1], expected, rtol=1e-10, atol=1e-12)
        later = Context(context.x.clone(), context.y.clone())
        later.x[:, i + 1 :] += 1
        later.y[:, i:] += 1
        torch.testing.assert_close(TRANSFORMER.along(params, later)[:, : i + 1], along[:, : i + 1])


def test_the_transformer_is_torchs() -> None:
    """Layers with the norm first over the interleaved tokens, under a causal mask."""
    params, context, _ = problem(TRANSFORMER)
    layer = torch.nn.TransformerEncoderLayer(
        4, 2, 16, 0.0, activation=lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        norm_first=True, batch_first=True, dtype=torch.float64
    )  # fmt: skip

    def of_layer(number: int) -> Params:
        own = {name.split(".", 1)[1]: value for name, value in params.items() if f":layer{number}." in name}
        names = {
            "self_attn.out_proj": "attended",
            "linear1": "mlp0",
            "linear2": "mlp1",
            "norm1": "norm0",
            "norm2": "norm1",
        }
        state = {
            f"{theirs}.{kind}": own[f"{ours}.{kind}"] for theirs, ours in names.items() for kind in ("weight", "bias")
        }
        for kind in ("weight", "bias"):
            state[f"self_attn.in_proj_{kind}"] = torch.cat(
                [own[f"{part}.{kind}"] for part in ("query", "key", "value")]
            )
        return state

    tokens = torch.stack([context.x, torch.nn.functional.pad(context.y, (0, 2))], 2).flatten(1, 2)
    h = torch.nn.functional.linear(tokens, params["sequence:in.weight"], params["sequence:in.bias"])
    h = h + params["sequence:place.weight"][:12]
    mask = torch.ones(12, 12, dtype=torch.bool).triu(1)
    for number in range(2):
        h = torch.func.functional_call(layer, of_layer(number), (h,), {"src_mask": mask})
    h = torch.nn.functional.layer_norm(h, (4,), params["sequence:norm.weight"], params["sequence:norm.bias"])
    expected = torch.nn.functional.linear(h, params["sequence:out.weight"], params["sequence:out.bias"])[:, ::2]
    torch.testing.assert_close(TRANSFORMER.along(params, context), expected, rtol=1e-9, atol=1e-11)


def test_places_and_sights_are_those_of_a_sequence() -> None:
    order = order_of(Context(torch.zeros(1, 3, 1), torch.zeros(1, 3, 1)), 2)
    assert order.place.tolist() == [[0, 1, 2, 3, 3]]
    assert order.sees().int().tolist() == [
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 1]]
    ]
    assert order.before(2).int().tolist() == [[[0] * 5, [0] * 5, [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0]]]
    sees, query = order.sees(), torch.randn(1, 5, 2)
    ones = attend(query, query.flip(1), torch.ones(1, 5, 3), 1, sees)  # the weights of a row sum to 1, over keys
    torch.testing.assert_close(ones, torch.ones_like(ones))


def test_temporal_convolutions_are_torchs_with_dilations_1_2_4() -> None:
    """Without attention, SNAIL is a stack of gated causal convolutions, over the sequence of one target."""
    params, context, query = problem(SNAIL, queries=1)
    h = torch.cat([torch.cat([context.x, context.y], -1), torch.nn.functional.pad(query, (0, 2))], 1)
    sees = torch.ones(7, 7, dtype=torch.bool).tril()
    for block in range(3):
        name = f"sequence:attention{block}"
        q, k, v = (
            torch.nn.functional.linear(h, params[f"{name}.{part}.weight"], params[f"{name}.{part}.bias"])
            for part in ("query", "key", "value")
        )
        h = torch.cat([h, torch.nn.functional.scaled_dot_product_attention(q, k, v, sees)], -1)
        for layer, dilation in enumerate((1, 2, 4) if block < 2 else ()):
            name = f"sequence:temporal{block}.{layer}"
            kernel = torch.stack([params[f"{name}.before.weight"], params[f"{name}.here.weight"]], -1)
            padded = torch.nn.functional.pad(h.mT, (dilation, 0))
            both = torch.nn.functional.conv1d(padded, kernel, params[f"{name}.here.bias"], dilation=dilation).mT
            added, gate = both.chunk(2, -1)
            h = torch.cat([h, added.tanh() * gate.sigmoid()], -1)
    expected = torch.nn.functional.linear(h, params["sequence:out.weight"], params["sequence:out.bias"])[:, -1:]
    torch.testing.assert_close(SNAIL(params, context, query), expected, rtol=1e-10, atol=1e-12)
    assert len([name for name in params if name.endswith("before.weight")]) == 6
