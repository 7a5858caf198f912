"""Networks by name: they learn, they embed, and what they cannot do is said before they are built."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pictune.errors import RecipeError
from pictune.models.backbones import build_network, describe, embed
from pictune.models.blueprint import Backbone, draw_blueprint
from pictune.models.cnn import OWN, Residual, cnn, resnet9
from pictune.models.preprocess import Preprocess

# name, pixels a side, pooled features
NETWORKS = [
    ("cnn", 32, 512),
    ("resnet9", 32, 256),
    ("resnet18", 32, 512),
    ("inception_v3", 75, 2048),
    ("convnext_atto", 32, 320),
    ("vit_tiny_patch16_224", 64, 192),
    ("swin_tiny_patch4_window7_224", 32, 768),
    ("efficientnet_b0", 32, 1280),
    ("mobilenetv3_small_050", 32, 1024),
    ("mobilenetv4_conv_small", 32, 1280),
    ("test_resnet.r160_in1k", 32, 96),
]


@pytest.mark.parametrize(("name", "size", "features"), NETWORKS, ids=[n for n, *_ in NETWORKS])
def test_networks_learn_and_embed(name, size, features):
    torch.manual_seed(0)
    network = build_network(name, outputs=3, image_size=size)
    assert network.training
    assert isinstance(network, Backbone)
    images = torch.rand(2, 3, size, size)
    outputs = network(images)
    assert outputs.shape == (2, 3)
    outputs.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters()), "no layer stands idle"

    network.eval()
    with torch.no_grad():
        pooled = embed(network, images)
        assert pooled.shape == (2, features)
        last = network.get_classifier()
        assert isinstance(last, nn.Linear)
        torch.testing.assert_close(last(pooled), network(images))


def test_the_largest_network_of_the_list_by_its_shadow():
    """vgg11 has 129 million weights: its shapes are tested without them."""
    network = draw_blueprint("vgg11", dropout=0.5, stochastic_depth=0).shadow(32)
    images = torch.zeros(2, 3, 32, 32, device="meta")
    outputs = network(images)
    outputs.sum().backward()
    assert outputs.shape == (2, 2)
    assert embed(network, images).shape == (2, 4096)


# ---------------------------------------------------------------- what cannot be done is said


@pytest.mark.parametrize(
    ("name", "size", "says", "instead"),
    [
        ("inception_v3", 74, "74 x 74", "at least 75 pixels"),
        ("vgg11", 31, "31 x 31", "at least 32 pixels"),
        ("cnn", 31, "31 x 31", "at least 32 pixels"),
        ("vit_tiny_patch16_224", 100, "patches of 16 pixels", "96 and 112"),
        ("vit_tiny_patch16_224", 8, "patches of 16 pixels", "work: 16."),
        ("swin_tiny_patch4_window7_224", 37, "patches of 4 pixels", "36 and 40"),
    ],
)
def test_a_size_that_fails_comes_with_one_that_works(name, size, says, instead):
    with pytest.raises(RecipeError, match=re.escape(says)) as caught:
        build_network(name, outputs=3, image_size=size)
    assert instead in caught.value.instead


@pytest.mark.parametrize(("name", "size"), [("inception_v3", 75), ("vgg11", 32), ("resnet9", 32)])
def test_the_smallest_size_that_is_named_works(name, size):
    assert draw_blueprint(name, dropout=0, stochastic_depth=0).obstacle(size) == ""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet1", "did you mean resnet"),
        ("ResNet18", "did you mean resnet18?"),
        ("cnnn", "did you mean cnn?"),
        ("resnet18.a1_in1", "did you mean a1_in1k?"),
        ("hf-hub:timm/resnet18", "is an address"),
        ("deepseek_vit_412m_enc", "cannot be used to classify"),
    ],
)
def test_names_that_are_no_classifier(name, says):
    with pytest.raises(RecipeError, match=re.escape(says)):
        build_network(name, outputs=3, image_size=64)


@pytest.mark.parametrize(
    ("name", "depth"),
    [("cnn", False), ("test_resnet", True), ("test_vit", True), ("inception_v3", False), ("vgg11", False)],
)
def test_rates_are_honoured_or_refused(name, depth):
    blueprint = draw_blueprint(name, dropout=0.37, stochastic_depth=0.21 if depth else 0)
    layers = list(blueprint.shadow(blueprint.default_size).modules())
    rates = {m.p for m in layers if isinstance(m, nn.Dropout)} | {getattr(m, "drop_rate", 0) for m in layers}
    assert 0.37 in rates
    if depth:
        assert max(getattr(m, "drop_prob", 0) or 0 for m in layers) == pytest.approx(0.21)
    else:
        with pytest.raises(RecipeError, match=r"stochastic_depth=0\.2") as caught:
            build_network(name, outputs=3, image_size=blueprint.default_size, stochastic_depth=0.2)
        assert len(caught.value.causes) == 1


def test_zero_is_zero_where_an_architecture_would_choose_otherwise():
    """Swin leaves out a tenth of its branches unless told otherwise; we tell it."""
    network = draw_blueprint("swin_tiny_patch4_window7_224", dropout=0, stochastic_depth=0).shadow(224)
    assert max(getattr(m, "drop_prob", 0) or 0 for m in network.modules()) == 0


def test_dropout_survives_a_new_last_layer():
    network = build_network("test_vit", outputs=3, image_size=160, dropout=0.5)
    network.reset_classifier(7)
    assert any(isinstance(m, nn.Dropout) and m.p == 0.5 for m in network.modules())


# ---------------------------------------------------------------- descriptions


def test_descriptions_agree_with_the_networks():
    described = describe("test_resnet")
    assert (described.name, described.tag, described.licence) == ("test_resnet", "r160_in1k", "apache-2.0")
    assert described.image_size == 160
    assert described.mean == described.std == (0.5, 0.5, 0.5)
    network = build_network("test_resnet", outputs=1, image_size=160)
    network.reset_classifier(0)
    assert described.parameters == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", OWN)
def test_our_own_networks_are_described(name):
    ours = describe(name)
    assert (ours.name, ours.licence, ours.tag) == (name, None, "")
    assert ours.parameters == sum(p.numel() for p in OWN[name](outputs=0).parameters())


def test_a_tag_chooses_its_own_card():
    assert describe("convnextv2_atto.fcmae").licence == "cc-by-nc-4.0"
    assert describe("vit_small_patch14_dinov2").image_size == 518
    with pytest.raises(RecipeError, match="no network called"):
        describe("resnet")


# ---------------------------------------------------------------- our own networks


def test_cnn_takes_its_stages_by_keyword():
    network = cnn(outputs=4, widths=(8, 16), blocks=2, dropout=0.5)
    assert network(torch.rand(2, 3, 12, 10)).shape == (2, 4)
    assert network.forward_features(torch.rand(1, 3, 12, 8)).shape == (1, 16, 3, 2)
    assert len([m for m in network.modules() if isinstance(m, nn.Conv2d)]) == 4
    network.reset_classifier(0)
    assert network(torch.rand(2, 3, 12, 10)).shape == (2, 16)


def test_resnet9_ends_its_last_three_stages_in_a_residual_block():
    network = resnet9(outputs=4, widths=(8, 8, 16, 16))
    assert network(torch.rand(2, 3, 24, 20)).shape == (2, 4)
    assert network.forward_features(torch.rand(1, 3, 32, 16)).shape == (1, 16, 2, 1)
    blocks = [stage[-1] for stage in network.stages if isinstance(stage[-1], Residual)]
    assert len(blocks) == 3
    features = torch.rand(2, 8, 5, 5)
    assert torch.equal(blocks[0].train()(features), features), "at first it changes nothing"


@pytest.mark.parametrize("name", OWN)
def test_our_own_networks_learn_the_colour_of_squares(name):
    torch.manual_seed(0)
    network = OWN[name](outputs=2, widths=(8, 16))
    labels = torch.arange(16) % 2
    images = torch.rand(16, 3, 16, 16) * 0.2
    images[labels == 1, 0] += 0.8
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    assert (network.eval()(images).argmax(1) == labels).all()


# ---------------------------------------------------------------- pixels in

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), height=st.integers(1, 9).filter(lambda h: h != 3), width=st.integers(4, 9))
def test_pixels_are_normalised_whichever_way_they_lie(seed, height, width):
    pixels = torch.randint(
        0, 256, (2, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    expected = (pixels.double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    preprocess = Preprocess(mean=MEAN, std=STD)
    for given_pixels in (pixels, pixels.permute(0, 3, 1, 2), pixels.permute(0, 3, 1, 2).contiguous()):
        out = preprocess(given_pixels)
        assert out.dtype == torch.float32
        assert out.shape == (2, 3, height, width)
        assert out.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(out.permute(0, 2, 3, 1).double(), expected, rtol=1e-5, atol=1e-5)


def test_a_gradient_reaches_the_pixels_and_they_are_not_changed():
    pixels = torch.full((1, 4, 5, 3), 128.0, requires_grad=True)
    Preprocess(mean=MEAN, std=STD)(pixels).sum().backward()
    torch.testing.assert_close(pixels.grad[0, 0, 0], 1 / (255 * torch.tensor(STD)))
    assert (pixels == 128).all()


def test_mean_and_std_travel_with_the_weights():
    one, other = Preprocess(mean=MEAN, std=STD), Preprocess(mean=(0, 0, 0), std=(1, 1, 1))
    other.load_state_dict(one.state_dict())
    pixels = torch.randint(0, 256, (1, 4, 4, 3), dtype=torch.uint8)
    assert torch.equal(one(pixels), other(pixels))
    assert one.bfloat16()(pixels).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(4, 4, 3), (1, 4, 4, 4), (1, 1, 4, 4)])
def test_what_is_no_batch_of_rgb_is_refused(shape):
    with pytest.raises(AssertionError):
        Preprocess(mean=MEAN, std=STD)(torch.zeros(shape))
