"""LoRA: nothing changes at first, only corrections and the head learn, and merging leaves a plain network."""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from itertools import product

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pictune.errors import RecipeError
from pictune.models.backbones import build_network
from pictune.models.freezing import train_mode
from pictune.models.lora import LoraConv2d, LoraLinear, add_lora, merge_lora

SMALL_SWIN = {"drop_path_rate": 0.0, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 4), "img_size": 64}

# name, pixels a side, classifier, keywords of timm that make it small
NETWORKS = [
    ("cnn", 32, "fc", {}),
    ("resnet9", 32, "fc", {}),
    ("test_resnet", 32, "fc", {}),
    ("test_vit", 160, "head", {}),
    ("test_convnext", 32, "head.fc", {}),
    ("test_efficientnet", 32, "classifier", {}),
    ("test_byobnet", 32, "head.fc", {}),
    ("swin_tiny_patch4_window7_224", 64, "head.fc", {**SMALL_SWIN, "window_size": 4}),
    ("swinv2_tiny_window8_256", 64, "head.fc", {**SMALL_SWIN, "window_size": 4}),
    (
        "beit_base_patch16_224",
        32,
        "head",
        {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 2, "init_values": 0.1},
    ),
]
every_network = pytest.mark.parametrize(
    ("name", "size", "head", "small"), NETWORKS, ids=[name for name, *_ in NETWORKS]
)


def network_of(name: str, size: int, small: dict) -> nn.Module:
    """A network at random, always the same, whose normalisation statistics are not those of a new one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if small:
            network = timm.create_model(name, num_classes=3, **small)
        else:
            network = build_network(name, outputs=3, image_size=size)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.2, 0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)  # zero at the end of some residual blocks
    return network


def images_of(size: int) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def answers(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """In evaluation mode."""
    before = network.training
    with torch.no_grad():
        given = network.eval()(images)
    network.train(before)
    return given


def digest(network: nn.Module, names: set[str]) -> str:
    """The hash of some tensors, bit for bit."""
    tensors = network.state_dict()
    whole = hashlib.sha256()
    for name in sorted(names):
        whole.update(name.encode() + tensors[name].numpy().tobytes())
    return whole.hexdigest()


def learn(network: nn.Module, images: torch.Tensor, *, steps: int = 2, rate: float = 0.05) -> None:
    """Plain steps on what learns; the first moves only `up`, because `up` starts at zero."""
    train_mode(network)
    learning = [p for p in network.parameters() if p.requires_grad]
    for _ in range(steps):
        for p in network.parameters():
            p.grad = None
        nn.functional.cross_entropy(network(images), torch.tensor([0, 2])).backward()
        with torch.no_grad():
            for p in learning:
                p -= rate * p.grad / (p.grad.norm() + 1e-9)


def expected_cost(layer: nn.Module, rank: int) -> int:
    """Written out another way than in the module: the sizes of the two matrices, group by group."""
    if isinstance(layer, nn.Linear):
        rows, columns = layer.weight.shape
        return rank * columns + rows * rank
    rows, columns = layer.weight.shape[0] // layer.groups, layer.weight[0].numel()
    return layer.groups * (rank * columns + rows * rank)


@every_network
class TestEveryNetwork:
    def test_counts_are_exact_and_only_corrections_and_head_learn(self, name, size, head, small):
        network = network_of(name, size, small)
        plain = dict(network.named_modules())
        in_head = sum(p.numel() for p in plain[head].parameters())
        adapted = add_lora(network, rank=2, alpha=4, keep=[head], seed=0)
        candidates = {
            at: layer
            for at, layer in plain.items()
            if type(layer) in (nn.Linear, nn.Conv2d) and not at.startswith(head)
        }
        expected = {at: expected_cost(layer, 2) for at, layer in candidates.items()}
        worth = {at: cost for at, cost in expected.items() if cost < candidates[at].weight.numel()}
        assert adapted.layers == tuple(worth)
        assert adapted.parameters == sum(worth.values()) > 0
        learning = {at: p.numel() for at, p in network.named_parameters() if p.requires_grad}
        assert sum(learning.values()) == adapted.parameters + in_head
        ends = tuple(f"{at}.{part}.weight" for at in worth for part in ("down", "up"))
        assert {at for at in learning if not at.startswith(f"{head}.")} == set(ends)

    def test_nothing_changes_until_it_learns(self, name, size, head, small):
        network, images = network_of(name, size, small), images_of(size)
        before = answers(network, images)
        add_lora(network, rank=2, alpha=4, keep=[head], seed=0)
        # Where a network computes with the weight itself, base and correction are added in another order.
        torch.testing.assert_close(answers(network, images), before, rtol=0, atol=1e-6)

    def test_it_learns_and_what_is_frozen_keeps_every_bit(self, name, size, head, small):
        network, images = network_of(name, size, small), images_of(size)
        adapted = add_lora(network, rank=2, alpha=4, keep=[head], seed=0)
        learning = {at for at, p in network.named_parameters() if p.requires_grad}
        frozen = set(network.state_dict()) - learning
        before, bits = answers(network, images), digest(network, frozen)
        learn(network, images)
        assert not torch.allclose(answers(network, images), before, atol=1e-4)
        assert digest(network, frozen) == bits
        assert all(p.grad is None for at, p in network.named_parameters() if at not in learning)
        for at in adapted.layers:  # every single correction took part
            assert network.get_submodule(at).up.weight.abs().max() > 0, at
            assert network.get_submodule(at).down.weight.grad.abs().max() > 0, at

    def test_merged_is_the_plain_network_with_the_same_answers(self, name, size, head, small):
        network, images = network_of(name, size, small), images_of(size)
        names, kinds = list(network.state_dict()), [type(m) for m in network.modules()]
        started = answers(network, images)
        add_lora(network, rank=2, alpha=4, keep=[head], seed=0)
        learn(network, images)
        learnt = answers(network, images)
        assert merge_lora(network) is network
        assert list(network.state_dict()) == names
        assert [type(m) for m in network.modules()] == kinds
        torch.testing.assert_close(answers(network, images), learnt, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(answers(network, images), started, atol=1e-4)
        fresh = network_of(name, size, small)
        fresh.load_state_dict(network.state_dict())
        assert torch.equal(answers(fresh, images), answers(network, images))

    def test_a_copy_stands_for_itself(self, name, size, head, small):
        network, images = network_of(name, size, small), images_of(size)
        add_lora(network, rank=2, alpha=4, keep=[head], seed=0)
        before = answers(network, images)
        other = copy.deepcopy(network)
        assert torch.equal(answers(other, images), before)
        learn(other, images)
        assert torch.equal(answers(network, images), before)
        merge_lora(other)
        assert any(isinstance(m, LoraLinear | LoraConv2d) for m in network.modules())


CONVOLUTIONS = [
    {"kernel_size": 3, "padding": 1, "groups": 1},
    {"kernel_size": 3, "padding": 1, "groups": 4, "bias": False},
    {"kernel_size": (3, 1), "stride": (2, 1), "padding": (1, 0), "groups": 2},
    {"kernel_size": 3, "dilation": 2, "padding": 2, "padding_mode": "circular"},
    {"kernel_size": (5, 3), "padding": "same", "padding_mode": "reflect", "groups": 2},
    {"kernel_size": 1, "stride": 2, "padding": "valid"},
]


class TestLayers:
    @pytest.mark.parametrize("given", CONVOLUTIONS, ids=[str(i) for i in range(len(CONVOLUTIONS))])
    def test_any_convolution_merges_exactly(self, given):
        torch.manual_seed(0)
        base = nn.Conv2d(8, 12, **given).double()
        wrapper = LoraConv2d(copy.deepcopy(base), rank=2, alpha=3, generator=torch.Generator())
        nn.init.normal_(wrapper.up.weight)
        features = torch.rand(2, 8, 9, 11, dtype=torch.float64)
        seen = wrapper(features)
        assert not torch.allclose(seen, base(features))
        change = wrapper.weight_change().flatten(1)
        for part in change.chunk(base.groups):
            assert torch.linalg.matrix_rank(part) == 2
        assert torch.equal(wrapper.weight, base.weight + wrapper.weight_change())
        merged = wrapper.merged()
        assert type(merged) is nn.Conv2d
        torch.testing.assert_close(merged(features), seen, rtol=1e-12, atol=1e-12)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.floats(0.1, 30))
    def test_a_linear_layer_is_base_and_scaled_product(self, inputs, outputs, rank, alpha):
        base = nn.Linear(inputs, outputs).double()
        wrapper = LoraLinear(base, rank=rank, alpha=alpha, generator=torch.Generator())
        nn.init.normal_(wrapper.up.weight)
        features = torch.rand(2, 5, inputs, dtype=torch.float64)
        by_hand = base(features) + alpha / rank * features @ wrapper.down.weight.T @ wrapper.up.weight.T
        torch.testing.assert_close(wrapper(features), by_hand)
        torch.testing.assert_close(nn.functional.linear(features, wrapper.weight, wrapper.bias), by_hand)
        torch.testing.assert_close(wrapper.merged()(features), by_hand)

    def test_they_answer_to_the_names_of_what_they_wrap(self):
        for base in (
            nn.Conv2d(4, 6, (3, 1), 2, (1, 0), 1, 2, bias=False),
            nn.Conv2d(4, 6, 3, padding="same"),
        ):
            wrapper = LoraConv2d(copy.deepcopy(base), rank=1, alpha=1, generator=torch.Generator())
            for (
                asked
            ) in "in_channels out_channels kernel_size stride padding dilation groups padding_mode".split():
                assert getattr(wrapper, asked) == getattr(base, asked)
            assert (wrapper.bias is None) == (base.bias is None)
        linear = nn.Linear(3, 5)
        wrapper = LoraLinear(linear, rank=1, alpha=1, generator=torch.Generator())
        assert (wrapper.in_features, wrapper.out_features) == (3, 5)
        assert wrapper.bias is linear.bias

    def test_first_numbers_keep_the_size_of_what_comes_in(self):
        wrapper = LoraConv2d(nn.Conv2d(64, 64, 3), rank=16, alpha=1, generator=torch.Generator())
        between = wrapper.down(torch.randn(4, 64, 10, 10, generator=torch.Generator().manual_seed(0)))
        assert 0.9 < between.std() < 1.1
        assert not wrapper.up.weight.any()


class Shared(nn.Module):
    """One layer in two places, two layers with one weight, a subclass, and a part that is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.again = self.first
        self.tied, self.twin = nn.Linear(8, 8), nn.Linear(8, 8)
        self.twin.weight = self.tied.weight
        self.attention = nn.MultiheadAttention(8, 2)  # its out_proj is a subclass of nn.Linear
        self.head = nn.Sequential(OrderedDict(fc=nn.Linear(8, 8), norm=nn.LayerNorm(8)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(self.twin(self.tied(self.again(self.first(features)))))


class TestChoosing:
    def test_shared_special_and_kept_layers(self):
        network = Shared()
        names, features = list(network.state_dict()), torch.rand(3, 8)
        assert add_lora(network, rank=1, alpha=1, keep=["head"], seed=0).layers == ("first",)
        assert network.first is network.again
        assert isinstance(network.again, LoraLinear)
        assert all(p.requires_grad for p in network.head.parameters())
        nn.init.ones_(network.first.up.weight)
        seen = network(features)
        merge_lora(network)
        assert network.first is network.again
        assert list(network.state_dict()) == names
        torch.testing.assert_close(network(features), seen)

    @pytest.mark.parametrize(
        ("targets", "expected"),
        [
            ("layer4", lambda name: name.startswith("layer4.")),
            ("layer[34].*.conv1", lambda name: name[:7] in ("layer3.", "layer4.") and "conv1" in name),
            ("*.conv2", lambda name: name.endswith(".conv2")),
            ("conv1.0", lambda name: name == "conv1.0"),
        ],
    )
    def test_a_pattern_chooses(self, targets, expected):
        everything = add_lora(network_of("test_resnet", 32, {}), rank=1, alpha=1, keep=["fc"], seed=0)
        chosen = add_lora(
            network_of("test_resnet", 32, {}), rank=1, alpha=1, targets=targets, keep=["fc"], seed=0
        )
        assert chosen.layers == tuple(name for name in everything.layers if expected(name))
        assert 0 < len(chosen.layers) < len(everything.layers)

    @pytest.mark.parametrize(
        ("asked", "words"),
        [
            ({"targets": "blocks.*.attn.qvk"}, ["'blocks.*.attn.qvk' (did you mean blocks.", "*.qkv"]),
            ({"targets": "*.qvk"}, ["(did you mean qkv?)"]),
            ({"targets": "head"}, ["fits the pattern 'head'"]),  # it is kept
            ({"keep": ["haed"]}, ["there is no 'haed' (did you mean head?)"]),
            ({"rank": 500}, ["rank 500", "smaller rank"]),
            ({"rank": 0}, ["found 0 and 1"]),
            ({"alpha": -1.0}, ["found 1 and -1"]),
        ],
    )
    def test_what_cannot_be_is_said_and_nothing_changes(self, asked, words):
        network = network_of("test_vit", 160, {})
        names = list(network.state_dict())
        with pytest.raises(RecipeError) as caught:
            add_lora(network, **{"rank": 1, "alpha": 1.0, "keep": ["head"], "seed": 0, **asked})
        assert all(part in str(caught.value) for part in words), caught.value
        assert list(network.state_dict()) == names
        assert all(p.requires_grad for p in network.parameters())

    def test_a_correction_is_smaller_than_its_layer_or_there_is_none(self):
        network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 9), nn.Conv2d(9, 9, 3, groups=9))
        assert add_lora(network, rank=4, alpha=1, seed=0).layers == ("1",)  # 64 of 64, 68 of 72, 360 of 81

    @pytest.mark.parametrize("targets", ["all", "stages*"])
    def test_a_network_without_plain_layers_says_so(self, targets):
        with torch.device("meta"):
            network = timm.create_model("resnetv2_50x1_bit", num_classes=2)  # its convolutions standardise
        with pytest.raises(RecipeError, match="has no layer that LoRA can adapt"):
            add_lora(network, rank=1, alpha=1, targets=targets, keep=["head"], seed=0)

    def test_the_seed_alone_decides(self):
        state = torch.get_rng_state()
        nets = []
        for seed, stray in product((0, 1), (0, 1)):
            network = network_of("test_vit", 160, {})
            torch.manual_seed(stray)
            before = torch.get_rng_state()
            add_lora(network, rank=2, alpha=1, keep=["head"], seed=seed)
            assert torch.equal(torch.get_rng_state(), before)
            nets.append(network.get_submodule("blocks.0.attn.qkv").down.weight)
        torch.set_rng_state(state)
        assert torch.equal(nets[0], nets[1])
        assert torch.equal(nets[2], nets[3])
        assert not torch.equal(nets[0], nets[2])

    def test_modes_and_kinds_follow_the_layer(self):
        network = network_of("test_vit", 160, {}).eval().bfloat16()
        add_lora(network, rank=2, alpha=1, keep=["head"], seed=0)
        assert not any(m.training for m in network.modules())
        assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
