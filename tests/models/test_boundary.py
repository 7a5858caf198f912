"""A network cut in two says and learns what the whole one does, wherever it is cut."""

from __future__ import annotations

import copy
from collections import OrderedDict
from functools import cache

import pytest
import timm
import torch
from torch import nn

from pictune.models.backbones import build_network
from pictune.models.boundary import Cut, cut, read_input
from pictune.models.freezing import freeze_layers, frozen_tensors, layer_groups, train_mode
from pictune.models.preprocess import Preprocess
from pictune.training.averaging import MovingAverage

SMALL_SWIN = {"embed_dim": 24, "depths": (1, 1), "num_heads": (2, 4), "img_size": 64, "window_size": 4}

# name, pixels a side, keywords of timm that make it small
NETWORKS = {
    "cnn": (32, {}),
    "resnet9": (32, {}),
    "test_resnet": (32, {}),
    "test_convnext": (32, {}),
    "test_vit": (160, {}),
    "test_efficientnet": (32, {}),
    "test_mambaout": (32, {}),
    "test_byobnet": (32, {}),
    "test_nfnet": (32, {}),
    "mobilenetv4_conv_small_035": (32, {}),
    "regnetx_002": (32, {}),
    "densenet121": (32, {"growth_rate": 8, "block_config": (2, 2, 2)}),
    "swin_tiny_patch4_window7_224": (64, SMALL_SWIN),
    "levit_128s": (32, {"img_size": 32, "embed_dim": (32, 48, 64), "num_heads": (2, 3, 4)}),
}
PLACES = ("head", "middle", "stem")
every_place = pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name in NETWORKS for place in PLACES]
)


@cache
def _first(name: str) -> nn.Module:
    """At random, but with normalisation statistics, scales and tables unlike those of a new network."""
    size, small = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if small:
            backbone = timm.create_model(name, num_classes=3, **small)
        else:
            backbone = build_network(name, outputs=3, image_size=size)
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                nn.init.uniform_(module.running_mean, -0.2, 0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)  # zero at the end of some residual blocks
        for key, parameter in backbone.named_parameters():
            if key.endswith("gamma"):
                nn.init.uniform_(parameter, 0.5, 1.5)  # next to zero in a new network
        preprocess = Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)
        return nn.Sequential(OrderedDict(preprocess=preprocess, backbone=backbone))


def network_of(name: str, freeze: str = "none") -> nn.Module:
    """A network of one's own, with frozen layers; always the same."""
    network = copy.deepcopy(_first(name))
    freeze_layers(network.backbone, frozen_tensors(network.backbone, freeze))
    return network


def setting_of(name: str, place: str) -> str:
    """What to freeze: all but the head, half of the groups, or the first one."""
    groups = layer_groups(_first(name).backbone)
    return {"head": "backbone", "middle": str(len(groups) // 2), "stem": "1"}[place]


def pixels_of(name: str, count: int = 3, *, seed: int = 1) -> torch.Tensor:
    size, generator = NETWORKS[name][0], torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def cut_of(name: str, freeze: str) -> tuple[nn.Module, Cut]:
    network = network_of(name, freeze)
    made = cut(network, image_size=NETWORKS[name][0])
    assert made is not None
    return network.eval(), made


def gradients(loss: torch.Tensor, network: nn.Module) -> list[torch.Tensor]:
    learning = [p for p in network.parameters() if p.requires_grad]
    return list(torch.autograd.grad(loss, learning))


# ---------------------------------------------------------------- the same answers


@every_place
def test_the_parts_together_say_and_learn_what_the_whole_does(name, place):
    network, made = cut_of(name, setting_of(name, place))
    frozen = {n for n, p in network.named_parameters() if not p.requires_grad}
    for count in (3, 1, 5):
        pixels = pixels_of(name, count)
        with torch.no_grad():
            activation = made.below(pixels)
            expected = network(pixels)
        assert tuple(activation.shape) == (count, *made.shape)
        torch.testing.assert_close(made.above.eval()(activation), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(made.above(activation.flip(0)), expected, rtol=1e-3), "it reads the activation"
    assert frozen, "something lies below"
    # In training mode, too: what learns above normalises by the batch it sees.
    losses = []
    for part, given in ((network, pixels), (made.above, activation)):
        train_mode(part)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            losses.append(part(given)[:, 0].sum())
    ours, theirs = gradients(losses[1], made.above), gradients(losses[0], network)
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max()) + 1e-7, rtol=1e-3)


@every_place
def test_what_is_cut_off_is_not_part_of_what_learns(name, place):
    network, made = cut_of(name, setting_of(name, place))
    ours = made.above.state_dict()
    theirs = {f"network.{key}": tensor for key, tensor in network.state_dict().items()}
    assert ours.keys() < theirs.keys()
    assert all(ours[key].data_ptr() == theirs[key].data_ptr() for key in ours), "the tensors are shared"
    assert {f"network.{n}" for n, p in network.named_parameters() if p.requires_grad} <= ours.keys()
    if place == "head":
        assert sum(t.numel() for t in ours.values()) < 0.5 * sum(t.numel() for t in theirs.values())


@pytest.mark.parametrize("name", ["resnet9", "test_vit", "test_convnext"])
def test_what_the_upper_part_learns_the_whole_has_learnt(name):
    network, made = cut_of(name, setting_of(name, "middle"))
    pixels = pixels_of(name)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with torch.no_grad():
        activation, first = made.below(pixels), network(pixels)
    train_mode(made.above)
    optimizer = torch.optim.SGD([p for p in made.above.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(made.above(activation), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    network.eval()
    made.above.eval()
    with torch.no_grad():
        assert torch.equal(made.below(pixels), activation)
        torch.testing.assert_close(made.above(activation), network(pixels), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(network(pixels), first, atol=1e-4)
    frozen = frozen_tensors(network.backbone, setting_of(name, "middle"))
    for key, tensor in network.named_parameters():
        moved = not torch.equal(before[key], tensor)
        assert moved == (key.removeprefix("backbone.") not in frozen), key


@pytest.mark.parametrize("name", ["resnet9", "test_vit"])
def test_a_copy_of_the_upper_part_is_independent(name):
    """The moving average makes one; original and copy are then used alternately."""
    network, made = cut_of(name, setting_of(name, "middle"))
    pixels = pixels_of(name, 4)
    made.above.eval()
    with torch.no_grad():
        activation, expected = made.below(pixels), network(pixels)
        average = MovingAverage(made.above, decay=0.5).network
        for one, two in ((slice(0, 1), slice(1, 4)), (slice(2, 4), slice(0, 2))):
            for part, rows in ((made.above, one), (average, two), (made.above, two), (average, one)):
                torch.testing.assert_close(part(activation[rows]), expected[rows], atol=1e-5, rtol=1e-5)
        for parameter in average.parameters():
            parameter.zero_()
        torch.testing.assert_close(made.above(activation), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(network(pixels), expected, atol=1e-5, rtol=1e-5)
        assert not average(activation).any()
    assert average.state_dict().keys() == made.above.state_dict().keys()


def test_the_activation_is_not_kept_when_the_outputs_are_there():
    _, made = cut_of("resnet9", "2")
    activation = made.below(pixels_of("resnet9"))
    made.above(activation)
    held = [value for part in made.above.modules() for value in vars(part).values()]
    reels = [value.activation for value in held if type(value).__name__ == "_Reel"]
    assert reels
    assert all(len(reel) == 0 for reel in reels)


# ---------------------------------------------------------------- the fingerprint


def touched(network: nn.Module, key: str) -> None:
    with torch.no_grad():
        network.state_dict()[key].view(-1)[0] += 1


@pytest.mark.parametrize(
    ("name", "freeze"),
    [("resnet9", "3"), ("test_resnet", "backbone"), ("test_vit", "3"), ("test_convnext", "2")],
)
def test_the_fingerprint_changes_with_every_tensor_below_and_with_none_above(name, freeze):
    network, made = cut_of(name, freeze)
    size = NETWORKS[name][0]
    first = made.fingerprint
    assert cut_of(name, freeze)[1].fingerprint == first, "the same for the same network"
    pixels = pixels_of(name, 1)
    activation = made.below(pixels).detach().clone()
    decides = set()
    for key, tensor in network.state_dict().items():
        before = tensor.clone()
        touched(network, key)
        changed = made.fingerprint != first
        with torch.no_grad():
            matters = not torch.equal(made.below(pixels), activation)
        if matters:
            decides.add(key)
            assert changed, f"{key} decides the activation"
        if key in made.later:
            assert not changed, f"{key} lies above"
            assert not matters
        tensor.copy_(before)
    assert made.fingerprint == first
    assert decides
    if name == "test_vit":
        assert {"backbone.pos_embed", "backbone.cls_token"} <= decides
    if name == "resnet9":
        assert "backbone.stages.1.1.running_mean" in decides
        assert {"preprocess.mean", "preprocess.std"} <= decides
    learning = {key for key, parameter in network.named_parameters() if parameter.requires_grad}
    assert learning <= made.later
    again = cut(network, image_size=size)
    assert again is not None
    assert again.fingerprint == first


def test_the_fingerprint_tells_where_the_cut_is():
    seen = {cut_of("resnet9", str(count))[1].fingerprint for count in (1, 2, 3, 4, 5)}
    assert len(seen) == 5


# ---------------------------------------------------------------- where no cut holds


@pytest.mark.parametrize(
    ("name", "learns"),
    [
        ("test_vit", "pos_embed"),
        ("test_vit", "cls_token"),
        ("test_vit", "patch_embed.proj.bias"),
        ("resnet9", "stages.0.0.weight"),
        ("test_resnet", "conv1.0.weight"),
    ],
)
def test_there_is_no_cut_where_something_learns_at_the_input(name, learns):
    network = network_of(name, "backbone")
    assert cut(network, image_size=NETWORKS[name][0]) is not None
    network.backbone.get_parameter(learns).requires_grad = True
    assert cut(network, image_size=NETWORKS[name][0]) is None


def test_there_is_no_cut_where_nothing_or_everything_learns():
    assert cut(network_of("resnet9").requires_grad_(requires_grad=False), image_size=32) is None
    assert cut(network_of("resnet9"), image_size=32) is None


class Skipping(nn.Module):
    """A stem, two residual blocks and a head; the second block's shortcut passes all its layers by."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.one = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.two = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)])
        self.fc = nn.Linear(4, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        stem = self.stem(pixels.permute(0, 3, 1, 2).float() / 255)
        first = stem + self.one(stem)
        second = first + self.two[1](self.two[0](first).relu())
        return self.fc(second.mean((2, 3)))


@pytest.mark.parametrize(
    ("learning", "module"),
    [
        (("one.2", "two", "fc"), "stem"),  # the first convolution of a block is frozen, and not its second
        (("two.1", "fc"), "stem"),  # the sum of two paths is no module's output
        (("one.0", "fc"), "stem"),
    ],
)
def test_a_cut_never_loses_what_flows_past_it(learning, module):
    torch.manual_seed(0)
    network = Skipping()
    for name, parameter in network.named_parameters():
        parameter.requires_grad = name.startswith(learning)
    made = cut(network, image_size=8)
    assert made is not None
    assert made.module == module
    pixels = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8)
    torch.testing.assert_close(made.above(made.below(pixels)), network(pixels))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_vit"])
def test_every_beginning_of_a_network_may_be_frozen(name):
    """Tensor by tensor, so that the first that learns stands amid a block, behind a shortcut's start."""
    size, pixels = NETWORKS[name][0], pixels_of(name, 2)
    network = network_of(name)
    parameters = list(network.parameters())
    with torch.no_grad():
        expected = network.eval()(pixels)
    spread = range(0, len(parameters), max(1, len(parameters) // 6))
    modules = set()
    for count in spread:
        for number, parameter in enumerate(parameters):
            parameter.requires_grad = number >= count
        made = cut(network, image_size=size)
        if made is None:
            assert count == 0, "only where the first layer learns"
            continue
        modules.add(made.module)
        learning = [p for p in parameters if p.requires_grad]
        left = {id(p) for p in made.above.parameters()}
        assert all(id(p) in left for p in learning), "what learns is above"
        with torch.no_grad():
            found = made.above.eval()(made.below(pixels))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert len(modules) > 3


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("resnet9", "stages.[01].*"),
        ("resnet9", "stages.2.4.change.[0]*"),
        ("test_resnet", "layer2.0.conv1*"),
        ("test_convnext", "stages.1.blocks.0.conv_dw*"),
        ("test_vit", "blocks.2.attn*"),
    ],
)
def test_a_part_of_a_block_frozen_by_a_pattern_gives_no_wrong_cut(name, pattern):
    network = network_of(name, pattern)
    before = frozen_tensors(network.backbone, pattern)
    first = min(i for i, (n, _) in enumerate(network.backbone.named_parameters()) if n in before)
    frozen = [n for i, (n, _) in enumerate(network.backbone.named_parameters()) if i < first or n in before]
    freeze_layers(network.backbone, frozen)  # with all before the block
    made = cut(network, image_size=NETWORKS[name][0])
    assert made is not None
    pixels = pixels_of(name)
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            made.above.eval()(made.below(pixels)), network(pixels), atol=1e-5, rtol=1e-5
        )


def test_a_shape_that_is_a_multiple_of_the_batch_by_chance_is_no_reason_for_a_wrong_cut():
    """A table of rows that do not belong to pictures: stood in for with two pictures, it has four, too."""

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Linear(3, 5)

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return self.rows(torch.linspace(0, 1, 12).view(4, 3))

    class WithTable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat = nn.Flatten()
            self.first = nn.Linear(48, 5)
            self.table = Table()
            self.second = nn.Linear(5, 5)
            self.fc = nn.Linear(5, 2)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            first = self.first(self.flat(pixels.float() / 255))
            table = self.table(first)
            return self.fc(self.second(first).relu()) * len(table)

    torch.manual_seed(0)
    network = WithTable()
    network.requires_grad_(requires_grad=False)
    network.fc.requires_grad_()
    pixels = torch.randint(0, 256, (5, 4, 4, 3), dtype=torch.uint8)
    made = cut(network, image_size=4)
    assert made is not None
    torch.testing.assert_close(made.above(made.below(pixels)), network(pixels))


def test_rows_of_windows_are_stood_in_for_at_any_batch_size():
    """Inside a Swin transformer the first dimension counts windows, several a picture."""
    name = "swin_tiny_patch4_window7_224"
    _, made = cut_of(name, setting_of(name, "middle"))
    network = network_of(name).eval()
    for count in (1, 2, 7):
        pixels = pixels_of(name, count)
        with torch.no_grad():
            found = made.above.eval()(made.below(pixels))
            torch.testing.assert_close(found, network(pixels), atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- what is left behind


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(training):
    network = network_of("resnet9", "3").train(training)
    if training:
        train_mode(network)
    modes = [module.training for module in network.modules()]
    assert len(set(modes)) == 1 + training, "frozen modules are in evaluation mode"
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    modules = list(network.modules())
    drawn = torch.random.get_rng_state()
    made = cut(network, image_size=32)
    assert made is not None
    made.below(pixels_of("resnet9"))
    assert torch.equal(torch.random.get_rng_state(), drawn), "no random number is used up"
    assert [module.training for module in network.modules()] == modes
    assert list(network.modules()) == modules
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_an_error_below_leaves_no_hook():
    network, made = cut_of("resnet9", "3")
    with pytest.raises(AssertionError, match="three channels"):
        made.below(torch.zeros(1, 32, 32, 5))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("behind", [nn.Flatten, nn.ReLU, nn.Identity])
def test_dropout_that_is_random_in_training_lies_above_the_cut(rate, behind):
    """Whatever stands behind it, so that cached features lose nothing of it."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.Dropout(0.5))
    layers = OrderedDict(
        floats=_Floats(), body=body, drop=nn.Dropout(rate), behind=behind(), fc=nn.Linear(64, 2, bias=False)
    )
    network = nn.Sequential(layers)
    network.body.requires_grad_(requires_grad=False)
    made = cut(network, image_size=4)
    assert made is not None
    assert made.module == ("behind" if rate == 0 and behind is not nn.Identity else "body")
    train_mode(made.above)
    activation = made.below.eval()(torch.full((1, 4, 4, 3), 200, dtype=torch.uint8))
    torch.manual_seed(0)
    assert torch.equal(made.above(activation), made.above(activation)) == (rate == 0)


def test_the_dropout_of_a_real_head_lies_above_the_cut():
    """Here a flattening follows the dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = build_network("hgnetv2_b0", outputs=3, image_size=64, dropout=0.5)
    freeze_layers(backbone, frozen_tensors(backbone, "backbone"))
    preprocess = Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)
    network = nn.Sequential(OrderedDict(preprocess=preprocess, backbone=backbone))
    made = cut(network, image_size=64)
    assert made is not None
    train_mode(made.above)
    with torch.no_grad():
        activation = made.below.eval()(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
        train_mode(made.above)
        torch.manual_seed(0)
        assert not torch.equal(made.above(activation), made.above(activation))


def test_stochastic_depth_of_blocks_that_learn_lies_above_the_cut():
    network = nn.Sequential(
        OrderedDict(preprocess=Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3), backbone=None)
    )
    network.backbone = timm.create_model("test_vit", num_classes=3, drop_path_rate=0.5, pos_drop_rate=0.0)
    freeze_layers(network.backbone, frozen_tensors(network.backbone, "3"))
    made = cut(network, image_size=160)
    assert made is not None
    assert made.module == "backbone.blocks.1", "what is frozen drops nothing"
    network.backbone.pos_drop = nn.Dropout(0.1)  # beside the blocks, and so random while they learn
    made = cut(network, image_size=160)
    assert made is not None
    assert made.module == "backbone.patch_embed"


def test_of_a_transformer_only_the_pooled_token_is_kept_for_the_head():
    _, made = cut_of("test_vit", "backbone")
    assert made.shape == (64,)
    assert made.module == "backbone.fc_norm"


class _Floats(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float() / 255


def test_what_goes_into_a_module_is_read_without_computing_the_rest():
    network = network_of("resnet9").eval()
    pixels = pixels_of("resnet9")
    features = network.backbone.forward_features(network.preprocess(pixels))
    network.backbone.fc.register_forward_pre_hook(lambda *_: pytest.fail("the head is not asked"))
    found = read_input(network, "backbone.drop", pixels)
    torch.testing.assert_close(found, features.mean((2, 3)))
    assert len(network.backbone.drop._forward_pre_hooks) == 0
    with pytest.raises(AssertionError, match="does not come to its module"):
        read_input(_Never(), "unused", pixels)


class _Never(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Identity()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels
