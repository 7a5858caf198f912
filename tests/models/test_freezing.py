"""Layer groups of every family, what a setting freezes, and the mode that frozen layers stay in."""

from __future__ import annotations

from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

from pictune.errors import RecipeError
from pictune.models.backbones import build_network
from pictune.models.freezing import (
    LayerGroup,
    freeze_layers,
    frozen_tensors,
    head_modules,
    head_tensors,
    layer_groups,
    reinitialise,
    train_mode,
)

# The smallest network of each family of timm's; a family that is not named here is tried by its first one.
SMALLEST = """
beit_base_patch16_224 halonet_h1 test_byobnet cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
test_convnext cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny
deepseek_vit_412m deit_tiny_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small efficientformer_l1
efficientformerv2_s0 test_efficientnet efficientvim_m1 efficientvit_b0 efficientvit_m0
vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m
ghostnet_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small iformer_t
inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small levit_128s lowformer_b0
test_mambaout test_coatnet poolformerv2_s12 gmlp_ti16_224 lcnet_035 mobilenetv5_base mobilevit_xxs
mvitv2_tiny naflexvit_base_patch16_parfac_gap nasnetalarge nest_tiny nextvit_small test_nfnet pit_ti_224
pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 res2next50
resnest14d test_resnet resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1
skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_tiny_window16_256
swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11
visformer_tiny test_vit vit_tiny_r_s16_p8_224 test_vit_relpos samvit_base_patch16_224 vitamin_small_224
volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41p xcit_nano_12_p8_224
""".split()

# These register their parameters in another order than they use them; their groups go by use.
BY_USE = ("coat", "efficientvim", "twins", "visformer")


def smallest(family: str) -> str:
    mine = [name for name in timm.list_models(module=family) if name in SMALLEST]
    return mine[0] if mine else timm.list_models(module=family)[0]


def shadow_of(name: str) -> nn.Module:
    """Shapes without numbers, for seven classes."""
    with torch.device("meta"):
        return timm.create_model(name, num_classes=7)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return shadow_of("test_resnet")


def check_groups(network: nn.Module, groups: tuple[LayerGroup, ...]) -> None:
    """Every parameter in exactly one group, with its size; the last group is the head and nothing else."""
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    assert len(groups) >= 2
    assert sorted(name for group in groups for name in group.tensors) == sorted(sizes)
    assert [group.parameters for group in groups] == [sum(sizes[n] for n in g.tensors) for g in groups]
    assert all(group.tensors for group in groups)
    names = [group.name for group in groups]
    assert names[-1] == "head"
    assert len(set(names)) == len(names), "every group has a name of its own"
    classifier = network.get_classifier()
    parts = classifier if isinstance(classifier, tuple) else (classifier,)
    last = {id(parameter) for part in parts for parameter in part.parameters()}
    found = {n for n, parameter in network.named_parameters() if id(parameter) in last}
    assert set(groups[-1].tensors) == found == head_tensors(network)


def order_of_use(network: nn.Module, size: int) -> dict[str, int]:
    """When each module with parameters of its own is first used, by name."""
    seen: list[str] = []
    for name, module in network.named_modules():
        if name and list(module.parameters(recurse=False)):
            module.register_forward_pre_hook(lambda *_, name=name: seen.append(name))
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, size, size, device="meta"))
    return {name: number for number, name in enumerate(dict.fromkeys(seen))}


@pytest.mark.slow
@pytest.mark.parametrize("family", timm.list_modules())
def test_every_family_falls_into_groups_from_the_input_to_the_head(family):
    network = shadow_of(smallest(family))
    groups = layer_groups(network)
    check_groups(network, groups)
    check_groups(network, layer_groups(network, fine=True))
    assert len(layer_groups(network, fine=True)) >= len(groups)
    assert frozen_tensors(network, "backbone") == set(dict(network.named_parameters())) - head_tensors(
        network
    )
    for count, group in enumerate(groups[:-1], start=1):
        below = {name for one in groups[:count] for name in one.tensors}
        assert frozen_tensors(network, str(count)) == below
        if "+" not in group.name:
            assert frozen_tensors(network, group.name) == below, "a group is frozen by its name"
    if family in BY_USE:
        # The last use: norms beside the stages, one for each, are used throughout.
        used = order_of_use(network, network.pretrained_cfg["input_size"][-1])
        modules = [{name.rpartition(".")[0] for name in group.tensors} & used.keys() for group in groups]
        places = [max(used[name] for name in mine) for mine in modules]
    else:
        registered = {name: number for number, (name, _) in enumerate(network.named_parameters())}
        places = [min(registered[name] for name in group.tensors) for group in groups]
    assert all(one < other for one, other in pairwise(places)), "from the input on"


def test_the_smallest_are_of_different_families_and_all_there():
    families = [
        family for family in timm.list_modules() if set(timm.list_models(module=family)) & set(SMALLEST)
    ]
    assert len(families) == len(SMALLEST) == len(set(SMALLEST))


@pytest.mark.parametrize("name", ["cnn", "resnet9"])
def test_our_own_networks_have_a_group_for_each_stage(name):
    network = build_network(name, outputs=7, image_size=32)
    groups = layer_groups(network)
    check_groups(network, groups)
    assert [group.name for group in groups] == [*(f"stages.{number}" for number in range(5)), "head"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_resnet", "conv1 + bn1, layer1, layer2, layer3, layer4, head"),
        # A norm below the last layer is not the head; the last block goes with the norm behind it.
        ("test_convnext", "stem, stages.0, stages.1, stages.2, stages.3, head.norm, head"),
        (
            "test_vit",
            "cls_token + pos_embed + patch_embed, blocks.0, blocks.1, blocks.2, blocks.3, blocks.4, "
            "blocks.5 + norm, head",
        ),
        (
            "densenet121",
            "features.conv0 + features.norm0, features.denseblock1 + features.transition1, "
            "features.denseblock2 + features.transition2, features.denseblock3 + features.transition3, "
            "features.denseblock4, features.norm5, head",
        ),
        # A module called head, below a last layer that is called fc.
        (
            "selecsls42",
            "stem, features.0, features.1, features.2, features.3, features.4, features.5, "
            "head.0 + ... + head.3, head",
        ),
    ],
)
def test_groups_are_called_by_the_largest_modules_they_hold(name, expected):
    assert ", ".join(group.name for group in layer_groups(shadow_of(name))) == expected


def test_fine_groups_are_blocks():
    fine = [group.name for group in layer_groups(shadow_of("resnet18"), fine=True)]
    assert fine[:3] == ["conv1 + bn1", "layer1.0", "layer1.1"]
    assert len(fine) == 1 + 8 + 1


def test_a_network_without_groups_of_its_own_is_grouped_by_its_modules():
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))
            self.body = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
            self.norm = nn.LayerNorm(2)
            self.out = nn.Linear(2, 3)

        def get_classifier(self) -> nn.Module:
            return self.out

    network = Plain()
    groups = layer_groups(network)
    check_groups(network, groups)
    assert [group.name for group in groups] == ["scale", "body.0", "body.2", "norm", "head"]
    assert frozen_tensors(network, "body") == {
        "scale", "body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias",
    }  # fmt: skip


def test_a_network_with_two_last_layers_has_both_in_the_head():
    network = shadow_of("deit_tiny_distilled_patch16_224")
    groups = layer_groups(network)
    assert set(groups[-1].tensors) == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}
    assert head_modules(network) == ("head", "head_dist")
    check_groups(network, groups)


# ---------------------------------------------------------------- what a setting freezes


@pytest.mark.parametrize(
    ("freeze", "groups"),
    [
        ("none", 0), ("0", 0), ("1", 1), ("4", 4), ("5", 5), ("backbone", 5),
        ("conv1", 1), ("bn1", 1), ("conv1 + bn1", 1), ("layer1", 2), ("layer3", 4), ("layer3.0", 4),
        ("layer3.0.conv2", 4), ("layer4", 5),
    ],
)  # fmt: skip
def test_a_name_freezes_everything_up_to_the_end_of_its_group(resnet, freeze, groups):
    expected = {name for group in layer_groups(resnet)[:groups] for name in group.tensors}
    assert frozen_tensors(resnet, freeze) == expected


def test_a_name_that_begins_another_ones_is_not_taken_for_it():
    network = shadow_of("test_vit")
    assert "blocks.1.norm1.weight" in frozen_tensors(network, "blocks.1")
    network = shadow_of("vit_tiny_patch16_224")
    assert not any(name.startswith("blocks.10.") for name in frozen_tensors(network, "blocks.1"))


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("layer[12].*", lambda name: name.startswith(("layer1.", "layer2."))),
        ("layer[12]", lambda name: name.startswith(("layer1.", "layer2."))),
        ("layer?.0.conv1", lambda name: ".0.conv1." in name),
        ("*.bias", lambda name: name.endswith(".bias")),
        ("*bn*", lambda name: "bn" in name),
        ("fc*", lambda name: name.startswith("fc.")),
    ],
)
def test_a_pattern_freezes_just_what_it_fits(resnet, pattern, wanted):
    names = [name for name, _ in resnet.named_parameters()]
    expected = {name for name in names if wanted(name)}
    assert expected
    assert frozen_tensors(resnet, pattern) == expected


@pytest.mark.parametrize(
    ("freeze", "message", "instead"),
    [
        ("6", "6 groups are to be frozen, and 5 lie below the head", "a number up to 5, or backbone"),
        ("99", "99 groups are to be frozen, and 5 lie below the head", "a number up to 5, or backbone"),
        ("head", "head holds the head, and nothing would be left to learn", "Use backbone"),
        ("fc", "fc holds the head, and nothing would be left to learn", "Use backbone"),
        ("layr3", r"no layer called 'layr3' \(did you mean layer3\?\)", "layer1, layer2, layer3, layer4;"),
        ("backbon", r"no layer called 'backbon'", "Its groups are conv1 \\+ bn1, layer1"),
        ("layer", r"no layer called 'layer'", "a number of groups and a pattern will do as well"),
        ("layer3.0.conv9", r"did you mean layer3.0.conv", "Its groups are"),
        ("-1", "no layer called '-1'", "Its groups are"),
        ("", "it is empty", "Its groups are"),
        ("layer9.*", r"no layer fits the pattern 'layer9\.\*'", r"called conv1.0.weight, ..., fc.bias; see"),
        ("*", r"'\*' freezes every layer, and nothing is left to learn", "Use backbone"),
        ("[a-z]*", "freezes every layer", "Use backbone"),
    ],
)
def test_what_cannot_be_frozen_is_said_with_what_can(resnet, freeze, message, instead):
    with pytest.raises(RecipeError, match=message) as caught:
        frozen_tensors(resnet, freeze)
    assert caught.value.message.startswith("transfer.freeze: ")
    with pytest.raises(AssertionError, match=instead):
        raise AssertionError(caught.value.instead)


def test_a_module_called_head_below_the_head_cannot_be_named_as_the_head():
    network = shadow_of("selecsls42")
    with pytest.raises(RecipeError, match="head holds the head"):
        frozen_tensors(network, "head")
    assert frozen_tensors(network, "head.3") == frozen_tensors(network, "backbone")


# ---------------------------------------------------------------- frozen


def test_freezing_is_by_name_and_thaws_all_others():
    network = build_network("resnet9", outputs=3, image_size=32)
    for freeze in ("3", "none", "stages.1.*"):
        frozen = frozen_tensors(network, freeze)
        freeze_layers(network, frozen)
        assert {name for name, p in network.named_parameters() if not p.requires_grad} == frozen


def test_frozen_modules_stay_in_evaluation_mode_with_all_that_is_in_them():
    """Dropout, stochastic depth and normalisation of frozen blocks are still; those of others are not."""
    network = timm.create_model(
        "test_vit", num_classes=3, drop_rate=0.5, drop_path_rate=0.5, proj_drop_rate=0.5
    )
    freeze_layers(network, frozen_tensors(network, "3"))  # the patches and two blocks
    train_mode(network)
    inside = {name: module for name, module in network.named_modules() if name.startswith("blocks.")}
    dropping = [name for name, module in inside.items() if type(module).__name__ in {"Dropout", "DropPath"}]
    assert len(dropping) > 6
    for name, module in inside.items():
        frozen = name.startswith(("blocks.0", "blocks.1"))
        assert module.training == (not frozen), name
    assert network.training
    assert network.head_drop.training
    images = torch.rand(2, 3, 160, 160)
    below = network.blocks[:2]
    with torch.no_grad():
        patches = network.patch_embed(images).flatten(1, 2)
        assert torch.equal(below(patches), below(patches)), "nothing is dropped below"
        assert not torch.equal(network.blocks[2](patches), network.blocks[2](patches))


def test_training_mode_returns_when_layers_thaw():
    network = build_network("resnet9", outputs=3, image_size=32)
    freeze_layers(network, frozen_tensors(network, "backbone"))
    train_mode(network)
    assert [module.training for module in network.stages.modules()].count(True) == 0
    assert network.fc.training
    assert network.drop.training
    freeze_layers(network, frozen_tensors(network, "2"))
    train_mode(network)
    assert [stage.training for stage in network.stages] == [False, False, True, True, True]
    freeze_layers(network, ())
    train_mode(network)
    assert all(module.training for module in network.modules())


def test_a_normalisation_of_which_a_part_learns_is_not_frozen():
    network = build_network("resnet9", outputs=3, image_size=32)
    norm = network.stages[0][1]
    freeze_layers(network, frozen_tensors(network, "stages.0.*"))
    norm.bias.requires_grad = True
    train_mode(network)
    assert norm.training
    norm.bias.requires_grad = False
    train_mode(network)
    assert not norm.training


def test_a_network_of_which_nothing_learns_is_in_evaluation_mode():
    network = build_network("resnet9", outputs=3, image_size=32).requires_grad_(requires_grad=False)
    train_mode(network)
    assert not any(module.training for module in network.modules())


# ---------------------------------------------------------------- starting anew


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_the_last_blocks_start_anew_and_nothing_else(blocks):
    torch.manual_seed(0)
    network, fresh = (timm.create_model("test_resnet", num_classes=3) for _ in range(2))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
            nn.init.uniform_(module.bias)
            nn.init.uniform_(module.running_mean)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    groups = layer_groups(network, fine=True)[:-1]
    assert reinitialise(network, fresh, blocks=blocks) == tuple(group.name for group in groups[-blocks:])
    anew = tuple(f"layer{number}." for number in range(5 - blocks, 5))
    theirs = fresh.state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, theirs[name] if name.startswith(anew) else before[name]), name
    assert not torch.equal(before["layer4.0.bn1.running_mean"], network.layer4[0].bn1.running_mean)


def test_more_blocks_than_there_are_cannot_start_anew():
    network = timm.create_model("test_resnet", num_classes=3)
    with pytest.raises(RecipeError, match="6 blocks are to start anew, and 5 lie below the head") as caught:
        reinitialise(network, network, blocks=6)
    assert "model.weights=none" in caught.value.instead
