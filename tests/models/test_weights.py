"""Weights from the hub (a stand-in on the loopback interface), from files, and none."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch
from hub import StandInHub
from huggingface_hub import constants
from safetensors.torch import load, load_file, save, save_file

import toys
from pictune.errors import MachineError, WeightsError
from pictune.models.backbones import build_network
from pictune.models.cnn import OWN
from pictune.models.licences import PERMISSIVE, check_licence
from pictune.models.weights import Weights, differences, find_weights, read_tensors
from pictune.run import Run

REPOSITORY = "timm/test_resnet.r160_in1k"
DOWNLOAD = f"GET /{REPOSITORY}/resolve/main/model.safetensors"
NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return timm.create_model("test_resnet")


@pytest.fixture(scope="module")
def checkpoint(resnet) -> bytes:
    return save(resnet.state_dict())


@pytest.fixture(autouse=True)
def _connections_closed():
    yield
    huggingface_hub.close_session()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    """The hub's client pauses a second before it takes up a broken download; a test need not."""
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: None))


def ask(hub: StandInHub | str, cache: Path, wanted: str = "hub", network: str = "test_resnet", **options):
    address = hub if isinstance(hub, str) else hub.address
    return find_weights(wanted, network=network, cache=cache, endpoint=address, **{"timeout": 5.0, **options})


# ---------------------------------------------------------------- none


def test_none_asks_nobody_and_says_why():
    weights = find_weights("none", network="resnet18")
    assert (weights.kind, weights.path, weights.sha256) == ("none", None, "")
    assert "random" in weights.sentence
    assert "model.weights is none" in weights.sentence


# ---------------------------------------------------------------- ours


@pytest.fixture
def starter(tmp_path, monkeypatch):
    """A folder of starter weights that holds those of our plain network, in half precision."""
    folder = tmp_path / "starter"
    folder.mkdir()
    monkeypatch.setattr("pictune.models.weights.STARTER", folder)
    torch.manual_seed(1)
    network = OWN["cnn"](outputs=0)
    tensors = {n: t.half() if t.is_floating_point() else t for n, t in network.state_dict().items()}
    save_file(tensors, folder / "cnn.safetensors")
    return network


def test_starter_weights_are_taken_when_asked_for_and_when_there_are_no_others(starter):
    for wanted in ("starter", "auto"):
        weights = find_weights(wanted, network="cnn", endpoint=NOWHERE)
        assert (weights.kind, weights.source, weights.licence) == (
            "starter", "starter/cnn.safetensors", "apache-2.0",
        )  # fmt: skip
        assert "drawn pictures" in weights.sentence
    network = build_network("cnn", outputs=5, image_size=64, weights=weights)
    for name, tensor in starter.state_dict().items():
        assert torch.allclose(network.state_dict()[name].float(), tensor.float(), atol=1e-3), name
    assert network.fc.out_features == 5


def test_a_network_without_starter_weights_says_which_have_some(starter, tmp_path):
    with pytest.raises(WeightsError, match="no starter weights of resnet18") as caught:
        find_weights("starter", network="resnet18")
    assert "--model cnn" in str(caught.value)
    weights = find_weights("auto", network="test_resnet", cache=tmp_path / "none", endpoint=NOWHERE)
    assert weights.kind == "none"
    assert weights.obstacle in weights.sentence != ""


# ---------------------------------------------------------------- the hub


def test_download_then_cache_with_the_hub_gone(tmp_path, checkpoint, resnet):
    with StandInHub({REPOSITORY: checkpoint}) as hub:
        first = ask(hub, tmp_path, wanted="auto")
        assert [r.split()[0] for r in hub.requests].count("GET") == 1
    second = ask(NOWHERE, tmp_path, wanted="auto")
    assert first.kind == second.kind == "hub"
    assert first.sha256 == second.sha256 == hashlib.sha256(checkpoint).hexdigest()
    assert first.licence == "apache-2.0"
    assert "licence apache-2.0" in first.sentence
    assert "downloaded" in first.sentence
    assert "cache" in second.sentence

    network = build_network("test_resnet", outputs=3, image_size=64, weights=second)
    loaded = network.state_dict()
    for name, tensor in resnet.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(loaded[name], tensor), name
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_the_address_of_the_hub_is_taken_from_the_environment(tmp_path, checkpoint):
    program = (
        "from pictune.models.weights import find_weights as f; print(f('hub', network='test_resnet').path)"
    )
    with StandInHub({REPOSITORY: checkpoint}) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_CACHE": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


def test_a_whole_training_from_the_hub_then_from_its_cache(tmp_path, checkpoint):
    """What a user does: `train --weights hub`; the hub is gone the second time."""
    toys.shape_folders(tmp_path / "photos")

    def trained(name: str, endpoint: str) -> tuple[str, Run]:
        words = "train photos --model test_resnet --weights hub --technique head --image-size 32 --epochs 2"
        command = [sys.executable, "-m", "pictune", *words.split(), "--name", name, "--new"]
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(tmp_path / "hub")}
        environment |= {"PICTUNE_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stderr, Run(tmp_path / "runs" / name)

    with StandInHub({REPOSITORY: checkpoint}) as hub:
        said, first = trained("first", hub.address)
        assert [request for request in hub.requests if request.startswith("GET")] == [DOWNLOAD]
        assert set(hub.requests) == {DOWNLOAD, DOWNLOAD.replace("GET", "HEAD")}, "and nothing else is asked"
        assert not [told for told in hub.callers if "torch" in told or "agent" in told]
    assert "downloaded" in said
    told = first.read("made_by.json")["weights"]
    assert (told["kind"], told["source"], told["licence"]) == ("hub", REPOSITORY, "apache-2.0")
    assert told["sha256"] == hashlib.sha256(checkpoint).hexdigest()
    shipped, published = load_file(first.model / "weights.safetensors"), load(checkpoint)
    assert torch.equal(shipped["backbone.layer4.0.conv1.weight"], published["layer4.0.conv1.weight"])
    said, second = trained("second", NOWHERE)
    assert "cache" in said
    assert first.read("splits.json") == second.read("splits.json")
    assert (first.model / "weights.safetensors").read_bytes() == (
        second.model / "weights.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ({"status": 401}, "log in"),
        ({"status": 403}, "log in"),
        ({"status": 404}, "404"),
        ({"status": 503}, "out of order"),
        ({"files": {}}, "404"),
    ],
)
def test_a_refusal_is_explained_and_auto_goes_on(tmp_path, checkpoint, failure, message):
    with StandInHub(**{"files": {REPOSITORY: checkpoint}, **failure}) as hub:
        with pytest.raises(WeightsError, match=message) as caught:
            ask(hub, tmp_path)
        weights = ask(hub, tmp_path, wanted="auto")
    assert len(hub.requests) == 2, "one request each, no retries"
    assert "model.weights=none" in str(caught.value)
    assert "model.weights=PATH" in str(caught.value)
    assert weights.kind == "none"
    assert message in weights.sentence


def test_unreachable_lists_what_the_cache_has(tmp_path, checkpoint):
    with StandInHub({REPOSITORY: checkpoint}) as hub:
        ask(hub, tmp_path)
    with pytest.raises(WeightsError, match="cannot be reached") as caught:
        ask(NOWHERE, tmp_path, network="test_vit")
    assert REPOSITORY in str(caught.value)


@pytest.mark.parametrize("wanted", ["hub", "auto"])
def test_offline_asks_nobody(tmp_path, checkpoint, monkeypatch, wanted):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with StandInHub({REPOSITORY: checkpoint}) as hub:
        if wanted == "hub":
            with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids"):
                ask(hub, tmp_path)
        else:
            assert "HF_HUB_OFFLINE forbids" in ask(hub, tmp_path, wanted="auto").sentence
    assert hub.requests == []


def test_a_name_that_cannot_be_looked_up_is_not_waited_for(tmp_path, monkeypatch):
    released = threading.Event()

    def hang(*_args, **_options):
        released.wait(30)
        raise OSError("too late")

    monkeypatch.setattr(socket, "create_connection", hang)
    try:
        with pytest.raises(WeightsError, match=r"no answer within 0\.1 s"):
            ask("https://nowhere.invalid", tmp_path, timeout=0.1)
    finally:
        released.set()


def test_a_silent_hub_is_not_waited_for(tmp_path, checkpoint):
    with (
        StandInHub({REPOSITORY: checkpoint}, silent=True) as hub,
        pytest.raises(WeightsError, match=r"did not answer within 0\.2 s"),
    ):
        ask(hub, tmp_path, timeout=0.2)


def test_a_proxy_that_is_down_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", NOWHERE)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(WeightsError, match="cannot be reached"):
        ask("https://hub.invalid", tmp_path)


@pytest.mark.parametrize("wanted", ["hub", "auto"])
@pytest.mark.parametrize(
    "address",
    ["http://hub.invalid", "http://192.0.2.1", "http://127.0.0.1.hub.invalid", "ftp://hub.invalid", "hub"],
)
def test_a_hub_beyond_this_machine_is_asked_with_tls_or_not_at_all(tmp_path, monkeypatch, address, wanted):
    opened = []
    monkeypatch.setattr(socket, "create_connection", lambda *given, **_: opened.append(given))
    with pytest.raises(WeightsError, match="without TLS"):
        ask(address, tmp_path, wanted=wanted)
    assert opened == []


def test_a_broken_download_is_taken_up_again(tmp_path, checkpoint):
    with StandInHub({REPOSITORY: checkpoint}, breaks=2) as hub:
        weights = ask(hub, tmp_path)
    assert weights.path is not None
    assert weights.path.read_bytes() == checkpoint


@pytest.mark.parametrize("wanted", ["hub", "auto"])
def test_a_download_that_never_ends_is_given_up_and_leaves_nothing(tmp_path, checkpoint, wanted):
    with StandInHub({REPOSITORY: checkpoint}, breaks=10**6, resumes=False) as hub:
        with pytest.raises(WeightsError, match="did not finish"):
            ask(hub, tmp_path, wanted=wanted)
        assert len(hub.requests) < 12
        assert not [p for p in tmp_path.rglob("blobs/*") if p.is_file()]
        hub.breaks = 0
        assert ask(hub, tmp_path, wanted=wanted).kind == "hub"


def test_a_wrong_checksum_is_refused_and_deleted(tmp_path, checkpoint):
    with StandInHub({REPOSITORY: checkpoint}, checksum="0" * 64) as hub:
        with pytest.raises(WeightsError, match="arrived damaged"):
            ask(hub, tmp_path, wanted="auto")
        assert not list(tmp_path.rglob("model.safetensors"))
        assert not [p for p in tmp_path.rglob("blobs/*") if p.is_file()]
        hub.checksum = None
        assert ask(hub, tmp_path).kind == "hub"


def test_a_hub_without_checksums_is_refused(tmp_path, checkpoint):
    with (
        StandInHub({REPOSITORY: checkpoint}, checksum="not-a-sha256") as hub,
        pytest.raises(WeightsError, match="could not be checked"),
    ):
        ask(hub, tmp_path)


def test_a_file_too_large_is_not_downloaded(tmp_path, checkpoint):
    with StandInHub({REPOSITORY: checkpoint}) as hub:
        with pytest.raises(WeightsError, match="at most 1,000"):
            ask(hub, tmp_path, largest=1000)
        assert not any(request.startswith("GET") for request in hub.requests)


def test_a_full_disk_is_noticed_before_the_download(tmp_path, checkpoint):
    with StandInHub({REPOSITORY: checkpoint}, size=10**18) as hub:
        with pytest.raises(MachineError, match="no room"):
            ask(hub, tmp_path / "not" / "yet", largest=10**19)
        assert not any(request.startswith("GET") for request in hub.requests)


def test_a_cached_file_that_changed_is_refused(tmp_path, checkpoint):
    with StandInHub({REPOSITORY: checkpoint}) as hub:
        path = ask(hub, tmp_path).path
    content = bytearray(checkpoint)
    content[-1] ^= 1
    path.resolve().write_bytes(content)
    with pytest.raises(WeightsError, match="cache are damaged") as caught:
        ask(NOWHERE, tmp_path, wanted="auto")
    assert str(tmp_path / "models--timm--test_resnet.r160_in1k") in str(caught.value)


@pytest.mark.parametrize("network", [*OWN, "gcvit_tiny"])
def test_networks_nobody_publishes(tmp_path, network):
    with pytest.raises(WeightsError, match="nobody publishes"):
        ask(NOWHERE, tmp_path, network=network)
    ours = "starter" if network == "resnet9" else "none"
    assert ask(NOWHERE, tmp_path, wanted="auto", network=network).kind == ours


# ---------------------------------------------------------------- licences


@pytest.mark.parametrize("licence", PERMISSIVE)
def test_permissive_licences_are_taken(licence):
    assert licence in check_licence(licence.upper(), of="x")


@pytest.mark.parametrize(
    ("licence", "allowed", "taken"),
    [
        ("cc-by-nc-4.0", (), False),
        ("cc-by-nc-4.0", False, False),
        ("cc-by-nc-4.0", ("dinov3-license",), False),
        ("cc-by-nc-4.0", ("cc-by-nc-4.0",), True),
        ("CC-BY-NC-4.0", ("cc-by-nc-4.0",), True),
        ("dinov3-license", True, True),
        (None, (), False),
        ("", (), False),
        (None, ("unknown",), True),
    ],
)
def test_other_licences_only_when_allowed(licence, allowed, taken):
    if taken:
        assert "which you allowed" in check_licence(licence, of="x", allowed=allowed)
    else:
        with pytest.raises(WeightsError, match=r"model\.allow_licence="):
            check_licence(licence, of="x", allowed=allowed)


@pytest.mark.parametrize("wanted", ["hub", "auto"])
def test_a_licence_is_checked_before_anything_is_fetched(tmp_path, checkpoint, wanted):
    network, repository = "convnextv2_atto", "timm/convnextv2_atto.fcmae_ft_in1k"
    with StandInHub({repository: checkpoint}) as hub:
        with pytest.raises(WeightsError, match="cc-by-nc-4"):
            ask(hub, tmp_path, wanted=wanted, network=network)
        assert hub.requests == []
        weights = ask(hub, tmp_path, wanted=wanted, network=network, allow_licence=["cc-by-nc-4.0"])
    assert "cc-by-nc-4.0, which you allowed" in weights.sentence


# ---------------------------------------------------------------- files


def from_file(path: Path) -> Weights:
    return find_weights(str(path), network="test_resnet")


WRAPPED = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "module": lambda state: {f"module.{k}": v for k, v in state.items()},
    "compiled": lambda state: {"state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()}},
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_checkpoints_of_training_scripts_are_unwrapped(tmp_path, resnet, wrapping):
    path = tmp_path / "w.pth"
    torch.save(WRAPPED[wrapping](resnet.state_dict()), path)
    assert read_tensors(path).keys() == resnet.state_dict().keys()


def test_a_file_of_the_users_own_keeps_a_last_layer_that_fits(tmp_path, caplog):
    path = tmp_path / "mine.safetensors"
    mine = timm.create_model("test_resnet", num_classes=4)
    save_file(mine.state_dict(), path)
    weights = from_file(path)
    assert weights.kind == "file"
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()

    same = build_network("test_resnet", outputs=4, image_size=64, weights=weights)
    assert torch.equal(same.get_classifier().weight, mine.fc.weight)
    with caplog.at_level("INFO", logger="pictune.models.backbones"):
        other = build_network("test_resnet", outputs=5, image_size=64, dropout=0.25, weights=weights)
    assert other.get_classifier().weight.shape[0] == 5
    assert torch.equal(other.state_dict()["conv1.0.weight"], mine.state_dict()["conv1.0.weight"])
    assert other.drop_rate == 0.25
    assert "mine.safetensors: the last layer (4 outputs) is replaced by a new one (5)" in caplog.text
    assert other.pretrained_cfg["state_dict"] is None, "the tensors are not kept twice"


def test_features_without_a_last_layer_are_enough(tmp_path):
    path = tmp_path / "features.pt"
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    network = build_network("test_vit", outputs=3, image_size=160, weights=from_file(path))
    assert network(torch.rand(1, 3, 160, 160)).shape == (1, 3)


def test_a_transformer_of_another_size_is_resampled(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(timm.create_model("test_vit").state_dict(), path)
    network = build_network("test_vit", outputs=3, image_size=64, weights=from_file(path))
    assert network.pos_embed.shape[1] == 1 + (64 // 16) ** 2


@pytest.mark.parametrize("name", OWN)
def test_our_own_networks_take_files_too(tmp_path, name):
    path, mine = tmp_path / "w.safetensors", OWN[name](outputs=4)
    save_file(mine.state_dict(), path)
    kept = build_network(name, outputs=4, image_size=32, weights=from_file(path))
    assert torch.equal(kept.fc.weight, mine.fc.weight)
    assert build_network(name, outputs=2, image_size=32, weights=from_file(path)).fc.out_features == 2


def changed(state: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    state = dict(state)
    if how == "missing":
        del state["conv1.0.weight"]
    if how == "unknown":
        state["surprise.weight"] = torch.zeros(3)
    if how == "shape":
        state["conv1.0.weight"] = torch.zeros(1, 3, 3, 3)
    return state


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "1 missing: conv1.0.weight"),
        ("unknown", "1 unknown to the network: surprise.weight"),
        ("shape", "1 of another shape: conv1.0.weight (1, 3, 3, 3) instead of"),
    ],
)
@pytest.mark.parametrize("outputs", [1000, 3])
def test_a_file_that_does_not_fit_lists_what_differs(tmp_path, resnet, how, says, outputs):
    path = tmp_path / "w.safetensors"
    save_file(changed(resnet.state_dict(), how), path)
    with pytest.raises(WeightsError, match="are not of test_resnet") as caught:
        build_network("test_resnet", outputs=outputs, image_size=64, weights=from_file(path))
    assert says in str(caught.value)


def test_families_that_timm_reads_leniently_must_be_complete(tmp_path):
    with torch.device("meta"):
        names = timm.create_model("dla46x_c").state_dict()
    state = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in names.items()}
    del state["level0.0.weight"]
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    with pytest.raises(WeightsError, match="lack layers") as caught:
        build_network("dla46x_c", outputs=3, image_size=64, weights=from_file(path))
    assert "1 missing: level0.0.weight" in str(caught.value)


class Bomb:
    def __reduce__(self):
        return (os.system, ("exit 1",))


def write(path: Path, kind: str, checkpoint: bytes) -> None:
    tensors = {"a": torch.ones(2), "b": torch.ones(2)}
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("weights, honestly")
        case "cut":
            path.write_bytes(checkpoint[: len(checkpoint) // 2])
        case "huge header":
            path.write_bytes((200 * 2**20).to_bytes(8, "little") + b"{" + b" " * 100)
        case "code":
            torch.save({"a": Bomb()}, path)
        case "cut pytorch":
            torch.save(tensors, path)
            path.write_bytes(path.read_bytes()[:-200])
        case "list":
            torch.save([torch.ones(2)], path)
        case "no tensors":
            torch.save({"a": 1, "b": torch.ones(2)}, path)
        case "nothing":
            torch.save({}, path)
        case "nan":
            torch.save({**tensors, "b": torch.tensor([1.0, float("nan")])}, path)


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("w.safetensors", "empty", "cannot be read"),
        ("w.safetensors", "text", "cannot be read"),
        ("w.safetensors", "cut", "cannot be read"),
        ("w.safetensors", "huge header", "cannot be read"),
        ("w.pth", "empty", "cannot be read"),
        ("w.pth", "text", "hold more than tensors, or are damaged"),
        ("w.pth", "code", "can run code"),
        ("w.pth", "cut pytorch", "cannot be read"),
        ("w.pth", "list", "no named tensors"),
        ("w.pth", "nothing", "no named tensors"),
        ("w.pth", "no tensors", "a is no tensor"),
        ("w.pt", "nan", "b holds numbers that are not finite"),
    ],
)
def test_broken_files_are_refused(tmp_path, checkpoint, name, kind, says):
    path = tmp_path / name
    write(path, kind, checkpoint)
    with pytest.raises(WeightsError, match=re.escape(says)):
        build_network("test_resnet", outputs=3, image_size=64, weights=from_file(path))


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("atuo", "did you mean auto?"),
        ("absent.safetensors", "no file of weights"),
        ("weights.npz", "nor a file of weights"),
        (".", "nor a file of weights"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, monkeypatch, wanted, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=re.escape(says)):
        find_weights(wanted, network="test_resnet")


def test_differences_are_counted_and_cut_short():
    expected = {f"layer{i}": torch.zeros(1) for i in range(9)}
    assert differences({}, expected) == ["9 missing: layer0, layer1, layer2, layer3, layer4, ..."]
    assert differences(expected, expected) == []
