"""NEXcepTion against PyTorch: every layer, logits and features, costs; and the layers it brought along."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest

import minixception as mx
from minixception.engine.op import observe
from minixception.engine.tensor import Tensor
from minixception.errors import ArgumentError, ShapeError
from minixception.models import NEXcepTionS, NEXcepTionT, NEXcepTionTP, nexception
from minixception.nn import BatchNorm2d, BlurPool2d, DropPath, Residual, SqueezeExcite
from tests.helpers import zoo

NETWORKS = {"nexception_t": NEXcepTionT, "nexception_tp": NEXcepTionTP, "nexception_s": NEXcepTionS}
CASES = {"full": (224, 224, 1), "small": (96, 64, 2)}  # height, width, images
SIZES = [pytest.param("full", marks=pytest.mark.slow), "small"]

# The authors' names ---------------------------------------------------------------------------------------------------

ROLES = {"mean": "running_mean", "var": "running_var"}
ROLES |= dict.fromkeys(("stem", "shortcut", "downsample", "se_fc1", "se_fc2", "fc"), "weight")


def our_tensor(path, role):
    """The manifest's down1/sep1/dw, depthwise is our down1.sep1.depthwise."""
    path = re.sub(r"/[dp]w$", "", path)
    path = re.sub(r"shortcut$", "shortcut/conv", path).replace("shortcut_bn", "shortcut/bn")
    path = re.sub(r"^fc$", "predictions", path)
    return f"{path.replace('/', '.')}.{ROLES.get(role, role)}"


OUR_NAMES = [  # of the authors' modules, in this order
    (r"^downsampling_block", "down"),
    (r"^middle_flow\.", "mid"),
    (r"^exit_flow\.0", "exit.down"),
    (r"^exit_flow", "exit"),
    (r"^exit\.(\d)$", lambda m: "exit." + ("", "sep1", "bn1", "act1", "sep2", "bn2", "act2")[int(m[1])]),
    (r"rep\.(\d)", lambda m: ("sep1", "bn1", "act", "sep2", "bn2", "pool", "blur")[int(m[1])]),
    (r"stages\.(\d)", r"stage\1"),
    (r"blocks\.(\d)", r"block\1"),
    (r"downsample\.0", "down_bn"),
    (r"downsample\.1", "down_conv"),
    (r"sepconv(\d)", r"sep\1"),
    (r"norm(\d)", r"bn\1"),
    (r"block_end", "se"),
    (r"skipbn", "shortcut.bn"),
    (r"skip$", "shortcut.conv"),
    (r"global_pool\.pool", "avg_pool"),
    (r"^head\.(?!norm)", ""),
    (r"^head\.norm", "head_bn"),
    (r"^fc$", "predictions"),
]
NOT_OURS = r"(conv_dw|conv_pw|rep|blocks|stages|middle_flow|downsample|flatten|global_pool)$"  # parts, or seen already
NOT_THEIRS = r"^$|(add|shortcut|se\.squeeze|se\.scale)$"


def our_path(golden_name, kind):
    path = golden_name
    for pattern, ours in OUR_NAMES:
        path = re.sub(pattern, ours, path)
    return re.sub(r"^stem\.\d", "stem." + {"Conv2d": "conv", "GELU": "act"}.get(kind, "bn"), path)


def recorded(model, data, case):
    """Module -> (the authors' name, its number in the golden data), for every layer and block."""
    names, kinds = data[f"{case}/layer_names"].tolist(), data[f"{case}/layer_classes"].tolist()
    theirs = {our_path(name, kind): (name, k) for k, (name, kind) in enumerate(zip(names, kinds, strict=True))}
    ours = {path: module for path, module in model.named_modules() if not re.search(NOT_THEIRS, path)}
    assert set(ours) == {path for path in theirs if not re.search(NOT_OURS, path)}
    return {module: theirs[path] for path, module in ours.items()}


# The networks ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=NETWORKS)
def golden(request):
    """(name, network with the golden weights, its golden outputs); a test that uses it sets the dtype it needs."""
    model = NETWORKS[request.param]().eval()
    shapes, seed = {name: t.shape for name, t in model.named_tensors()}, zoo.manifest(request.param)["seed"]
    state = {}
    for tensor in zoo.manifest(request.param)["tensors"]:
        drawn, ours = zoo.draw(seed, tensor), our_tensor(tensor["path"], tensor["role"])
        axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[drawn.ndim]  # OIHW -> HWIO, (out, in) -> (in, out)
        state[ours] = drawn.transpose(axes).reshape(shapes[ours])
    model.load_state_dict(state)
    return request.param, model, zoo.cases(request.param)


def normalised(pixels):
    return (pixels / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)


def run(model, x, dtype):
    with mx.no_grad():
        return model.astype(dtype)(Tensor(x.astype(dtype))).numpy()


def assert_near(ours, expected, tolerance):
    assert np.linalg.norm(ours - expected) <= tolerance * np.linalg.norm(expected)


def assert_equal(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_layer_in_float64(golden, case):
    name, model, data = golden
    seed = int(data["seed"])
    pixels = zoo.images(seed, *CASES[case])
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == data[f"{case}/input_sha256"]
    records = zoo.Records(seed, recorded(model, data, case))
    with observe(records):
        y = run(model, normalised(pixels), np.float64)
    assert len(records.stats) == len(records.layers)
    records.compare(data, case, 1e-10)
    assert_equal(y, data[f"{case}/f64/logits"])
    features = records.vectors["head.norm" if name == "nexception_tp" else "global_pool.pool"]
    assert_equal(features, data[f"{case}/f64/features"])
    if case == "small":
        assert_equal(records.last_map, data["small/f64/last_map"])


@pytest.mark.parametrize("case", SIZES)
def test_float32_and_the_compiled_network_within_the_stated_tolerances(golden, case):
    _, model, data = golden
    x = normalised(zoo.images(int(data["seed"]), *CASES[case])).astype(np.float32)
    records = zoo.Records(int(data["seed"]), recorded(model, data, case))
    with observe(records):
        y = run(model, x, np.float32)
    records.compare(data, case, 2e-5, stats=False)
    for logits in (y, mx.compile(model)(x)):
        assert logits.dtype == np.float32
        assert_near(logits, data[f"{case}/f64/logits"], 1e-5)
        assert_near(logits, data[f"{case}/f32/logits"], 1e-5)
        assert np.abs(logits - data[f"{case}/f64/logits"]).max() <= 2e-4


@pytest.mark.slow
def test_the_compiled_network_in_float64(golden):
    _, model, data = golden
    x = normalised(zoo.images(int(data["seed"]), *CASES["small"]))
    assert_equal(mx.compile(model.astype(np.float64))(x), data["small/f64/logits"])


ODD = {  # logits 0 to 2 of both images at 106x71 pixels, from the same network written in PyTorch 2.13, float64
    "nexception_t": (
        (4.329236160907378, -2.562145278616805, -1.1379822953342473),
        (4.482333245318077, -1.9402277900654936, -0.412347129719844),
    ),
    "nexception_tp": (
        (-1.332374299716, 0.49975771331757524, 3.4938361166642697),
        (-2.5437543002728003, -1.9618986905110463, 2.7729472539015285),
    ),
    "nexception_s": (
        (-2.145247285400389, -1.2085130433871953, -1.864942831002526),
        (-1.2552032700011722, -1.552331344074976, -1.4405138516744427),
    ),
}


@pytest.mark.slow
def test_odd_sizes(golden):
    name, model, data = golden
    y = run(model, normalised(zoo.images(int(data["seed"]), 106, 71, 2)), np.float64)
    np.testing.assert_allclose(y[:, :3], ODD[name], rtol=0, atol=1e-10 * np.abs(y).max())
    rows = mx.cost.table(model.astype(np.float32), (106, 71, 3)).rows
    sizes = [row.output_shape[:2] for row in rows if re.search(r"stem\.conv$|blur$|down_conv$", row.name)]
    if name == "nexception_tp":
        assert sizes == [(26, 17), (13, 8), (6, 4), (3, 2)]  # patches: a border too small for one is left out
    else:
        assert sizes == [(53, 35), (27, 18), (14, 9), (7, 5), (4, 3)]  # behind the stem the border counts


@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_without_the_top(golden, pooling):
    name, model, data = golden
    body = NETWORKS[name](include_top=False, pooling=pooling).eval()
    weights = model.astype(np.float32).state_dict().items()
    body.load_state_dict({path: array for path, array in weights if not re.match("predictions|head_bn", path)})
    y = run(body, normalised(zoo.images(int(data["seed"]), *CASES["small"])), np.float32)
    last = data["small/f64/last_map"]
    assert_near(y, {None: last, "avg": last.mean((1, 2)), "max": last.max((1, 2))}[pooling], 1e-5)


COUNTS = {  # parameters, of which trained, MACs at 224x224, MACs of the blur
    "nexception_t": (24_596_352, 24_544_976, 4_600_086_016, 6_773_760),
    "nexception_tp": (26_617_608, 26_559_112, 4_319_870_208, 0),
    "nexception_s": (43_455_888, 43_386_944, 8_402_354_752, 7_197_120),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_and_conventions(name):
    model = NETWORKS[name]()
    table = mx.cost.table(model, (224, 224, 3))
    params, trainable, macs, blur = COUNTS[name]
    assert (model.num_parameters(), model.num_parameters(trainable=True)) == (params, trainable)
    assert (table.params, table.trainable, table.macs) == (params, trainable, macs)
    assert sum(row.macs for row in table.rows if row.kind == "BlurPool2d") == blur
    norms = {(m.momentum, m.eps) for _, m in model.named_modules() if isinstance(m, BatchNorm2d)}
    assert norms == {(0.9, 1e-5)}
    assert model.preprocessing == "torch"


def test_parameters_of_the_parts_of_t():
    model = NEXcepTionT()
    trained = {name: part.num_parameters(trainable=True) for name, part in model.children().items()}
    middle = sum(count for name, count in trained.items() if name.startswith("mid"))
    assert [trained[name] for name in ("stem", "down1", "down2", "down3")] == [1_440, 49_528, 150_704, 579_936]
    assert (middle, trained["exit"], trained["predictions"]) == (15_491_840, 6_222_528, 2_049_000)


@pytest.mark.parametrize(("network", "least"), [(NEXcepTionT, 18), (NEXcepTionTP, 32)])
def test_sizes(network, least, rng):
    model = network(num_classes=7, input_shape=(least, least, 3)).eval()
    with mx.no_grad():
        assert model(mx.tensor(rng.standard_normal((1, least, least, 3)).astype(np.float32))).shape == (1, 7)
        for size in ((least - 1, least), (least, least - 1)):
            with pytest.raises(ShapeError, match=f"{network.__name__}: .* {least}, got .*{size[0]}, {size[1]}"):
                model(mx.tensor(np.zeros((1, *size, 3), np.float32)))
            with pytest.raises(ShapeError, match=f"at least {least}"):
                network(input_shape=(*size, 3))
    with pytest.raises(ArgumentError, match="got 'sum'"):
        network(pooling="sum")


def test_weights_of_a_file(tmp_path):
    model, path = NEXcepTionT(3), tmp_path / "w.safetensors"
    model.save_weights(path)
    for name, a in NEXcepTionT(3, weights=path).state_dict().items():
        np.testing.assert_array_equal(a, model.state_dict()[name], err_msg=name)


# Blocks and training --------------------------------------------------------------------------------------------------


def down():
    return nexception._down(3, 5, 6, drop_path=0.4)


def bottleneck():
    return nexception._bottleneck(3, drop_path=0.4)


def randomise(block):
    """Weights from a stream of their own, scales and statistics away from 1 and 0."""
    rng = np.random.Generator(np.random.PCG64(9))
    for name, t in block.named_tensors():
        positive = name.endswith(("gamma", "running_var"))
        t.data[...] = rng.uniform(0.5, 1.5, t.shape) if positive else 0.3 * rng.standard_normal(t.shape)
    return block


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [down, bottleneck])
def test_gradients_of_the_blocks(make, training, rng):
    block = randomise(make()).astype(np.float64).train(training)
    x = mx.tensor(rng.standard_normal((3, 6, 5, 3)), requires_grad=True)

    def forward(*_):
        mx.seed(5)  # the same images are dropped every time
        return block(x)

    mx.gradcheck(forward, {"x": x, **dict(block.named_parameters())})


@pytest.mark.parametrize("make", [down, bottleneck])
def test_compiled_blocks_leave_stochastic_depth_out(make, rng):
    block = randomise(make()).eval()
    x = rng.standard_normal((5, 7, 6, 3)).astype(np.float32)
    with mx.no_grad():
        assert_near(mx.compile(block)(x), block(mx.tensor(x)).numpy(), 1e-5)


def test_rates_of_stochastic_depth():
    for network, rates in ((NEXcepTionT, [0.1] * 12), (NEXcepTionTP, np.linspace(0, 0.1, 19)[1:])):
        model = network(drop_path=0.1)
        blocks = [m for _, m in model.named_modules() if isinstance(m, Residual)]
        drops = [block.drop_path for block in blocks if hasattr(block, "drop_path")]
        np.testing.assert_allclose([drop.rate for drop in drops], rates, rtol=1e-12)
        assert all(block.chain[-2:] == ["se", "drop_path"] for block in blocks if hasattr(block, "drop_path"))
    assert not any(isinstance(m, DropPath) for _, m in NEXcepTionT().named_modules())


def test_a_dropped_block_is_the_identity(rng):
    block = nexception._bottleneck(8, drop_path=0.5)
    x = rng.standard_normal((64, 3, 3, 8)).astype(np.float32)
    mx.seed(3)
    y = block(mx.tensor(x)).numpy()
    dropped = (y == x).all((1, 2, 3))
    assert 16 < dropped.sum() < 48
    assert (y != x).any((1, 2, 3)).sum() == 64 - dropped.sum()


@pytest.mark.parametrize("network", [pytest.param(NEXcepTionT, marks=pytest.mark.slow), NEXcepTionTP])
def test_a_few_training_steps(network, rng):
    mx.seed(4)
    model = network(num_classes=4, input_shape=(40, 36, 3), drop_path=0.05)
    x, labels = mx.tensor(rng.standard_normal((4, 40, 36, 3)).astype(np.float32)), [0, 1, 2, 3]
    optimizer = mx.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    before = [b.data.copy() for _, b in model.named_buffers()]
    losses = []
    for step in range(4):
        optimizer.zero_grad()
        loss = mx.cross_entropy(model(x), labels)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            for name, p in model.named_parameters():
                assert p.grad is not None, name
                assert np.isfinite(p.grad).all(), name
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    assert not any(np.array_equal(b.data, old) for (_, b), old in zip(model.named_buffers(), before, strict=True))


# Layers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reduced", [None, 3])
def test_squeeze_excite_gradients(rng, training, reduced):
    layer = randomise(SqueezeExcite(10, reduced)).astype(np.float64).train(training)
    x = mx.tensor(rng.standard_normal((4, 3, 2, 10)), requires_grad=True)
    mx.gradcheck(lambda *_: layer(x), {"x": x, **dict(layer.named_parameters())})


@pytest.mark.parametrize(("channels", "reduced"), [(96, 8), (128, 8), (192, 16), (384, 24), (752, 48), (1024, 64)])
def test_squeeze_excite_reduces_to_a_multiple_of_8(channels, reduced):
    layer = SqueezeExcite(channels)
    assert layer.fc1.weight.shape == (channels, reduced)
    assert layer.num_parameters(trainable=True) == 2 * channels * reduced + channels + 3 * reduced


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("shape", [(1, 2, 2, 1), (2, 3, 2, 5), (1, 6, 9, 17), (2, 7, 4, 3)])
def test_blur_pool(rng, shape):
    x = mx.tensor(rng.standard_normal(shape), requires_grad=True)
    padded = np.pad(x.data, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    expected = ((rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4)[:, ::2, ::2]
    layer = BlurPool2d()
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-13, atol=1e-13)
    single = layer(mx.tensor(x.data.astype(np.float32))).numpy()
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-6)
    mx.gradcheck(layer, [x])
    assert not layer.state_dict()


def test_blur_pool_hides_what_the_coarser_grid_cannot_show():
    y, x = np.ogrid[:6, :7]
    checkerboard = ((x + y) % 2).astype(np.float32)[None, :, :, None]
    np.testing.assert_array_equal(BlurPool2d()(mx.tensor(checkerboard)).numpy(), np.full((1, 3, 4, 1), 0.5))
    with pytest.raises(ShapeError, match="1x4"):
        BlurPool2d()(mx.tensor(np.zeros((1, 1, 4, 2), np.float32)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_drop_path(dtype):
    layer, n = DropPath(0.3), 20_000
    x = mx.tensor(np.ones((n, 2, 1, 3), dtype), requires_grad=True)
    mx.seed(6)
    y = layer(x)
    assert y.dtype == dtype
    assert set(np.unique(y.data)) == {0, dtype(1 / 0.7)}
    kept = y.data != 0
    assert (kept == kept[:, :1, :1, :1]).all()  # all of an image or nothing
    assert abs(kept[:, 0, 0, 0].mean() - 0.7) < 4 * np.sqrt(0.3 * 0.7 / n)
    y.backward(np.full(y.shape, 2, dtype))
    np.testing.assert_array_equal(x.grad, 2 * y.data)
    mx.seed(6)
    np.testing.assert_array_equal(layer(x).data, y.data)
    assert (layer(x).data != y.data).any()


def test_drop_path_at_inference_and_without_a_rate():
    x = mx.tensor(np.ones((4, 2), np.float32))
    state = mx.engine.random.generator().bit_generator.state
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0)(x) is x
    assert mx.engine.random.generator().bit_generator.state == state
    for rate in (-0.1, 1.0):
        with pytest.raises(ArgumentError, match=f"less than 1, got {rate}"):
            DropPath(rate)
