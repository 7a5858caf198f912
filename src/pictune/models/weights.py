"""Pretrained weights: from the hub, from a file, our own, or none; always with a sentence that says why.

No code and no pickled object is ever taken from anywhere: safetensors, or PyTorch files that hold
nothing but tensors. What comes from the hub is checked against the SHA-256 that the hub names.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pictune.errors import WeightsError
from pictune.models.hub import Hub, UnavailableError, brief, sha256_of
from pictune.models.licences import check_licence
from pictune.settings import suggestion

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".pth", ".pt")
WRAPPERS = ("state_dict", "model_state_dict", "model")  # names under which training scripts keep the weights
PREFIXES = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name
INSIDE = ("backbone.encoder.network.", "backbone.")  # where the network is in a model that a run shipped
LISTED = 5  # how many names an error lists of each kind
STARTER = Path(__file__).parent / "starter"  # what we trained ourselves; its README says on what
STARTER_LICENCE = "apache-2.0"
LARGEST = 4 * 2**30  # bytes; no backbone one would fine-tune on one machine is larger


@dataclass(frozen=True, slots=True)
class Weights:
    """Where a network's first weights come from.

    Args:
        kind: ``hub``, ``file``, ``starter`` (ours) or ``none`` (every layer starts at random).
        source: Hub repository or file name; empty for none.
        licence: As the publisher names it; None when nobody says.
        path: The file on this machine; None for none.
        sha256: Of that file, hexadecimal; empty for none.
        sentence: For people: what was chosen and why.
        obstacle: Why the hub's could not be had, when they were wanted and it starts at random instead.
    """

    kind: Literal["hub", "file", "starter", "none"]
    source: str
    licence: str | None
    path: Path | None
    sha256: str
    sentence: str
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """Weights that the hub has for a network: its repository and the licence of the weights."""

    repository: str
    licence: str | None


def find_weights(
    wanted: str,
    *,
    network: str,
    allow_licence: bool | Collection[str] = (),
    cache: Path | None = None,
    timeout: float = 10.0,
    endpoint: str | None = None,
    largest: int = LARGEST,
) -> Weights:
    """Finds the weights a network starts from, downloading them when needed.

    What the hub's cache holds is used without asking the hub. A network that is off is noticed
    within two seconds. `auto` never hides damage: a download that breaks off, a wrong checksum or a
    licence that is not permitted is an error for it too.

    Args:
        wanted: ``auto`` (the hub's if they can be had, else the starter weights if there are some for this
            network, else none), ``hub``, ``starter``, ``none``, or a path to a ``.safetensors``, ``.pth``
            or ``.pt`` file.
        network: A name that `build_network` knows.
        allow_licence: Licences accepted besides the permissive ones; True accepts any.
        cache: Folder of the hub's cache; None is the usual one (``HF_HUB_CACHE``).
        timeout: Seconds to wait for the hub's first answer.
        endpoint: Address of the hub; None is ``HF_ENDPOINT`` or the public hub.
        largest: Most bytes to download.

    Raises:
        WeightsError: When what is wanted cannot be had, is damaged, or its licence is not permitted.
        MachineError: When the disk is full.
    """
    if wanted == "none":
        return _none("Every layer starts at random, because model.weights is none.")
    if wanted == "starter":
        return _starter(network)
    if wanted not in ("auto", "hub"):
        return _from_file(Path(wanted))
    try:
        published = _published(network)
        licence = check_licence(published.licence, of=published.repository, allowed=allow_licence)
        hub = Hub(published.repository, cache=cache, timeout=timeout, endpoint=endpoint, largest=largest)
        path, checksum, how = hub.find()
    except UnavailableError as reason:
        if wanted == "hub":
            raise
        if _starter_file(network).is_file():
            return _starter(network)
        none = _none(
            f"Every layer starts at random, because no pretrained weights could be had: {reason.message}. "
            "With few pictures, expect a clearly worse model than one that starts from pretrained weights."
        )
        return replace(none, obstacle=reason.message)
    sentence = (
        f"{network} starts from {published.repository} ({licence}), {how}; "
        "its last layer is replaced by a new one for your classes."
    )
    return Weights("hub", published.repository, published.licence, path, checksum, sentence)


def _none(sentence: str) -> Weights:
    return Weights("none", "", None, None, "", sentence)


def _starter_file(network: str) -> Path:
    return STARTER / f"{network}.safetensors"


def _starter(network: str) -> Weights:
    """Our own weights, which come with the package.

    Raises:
        WeightsError: When there are none for this network.
    """
    path = _starter_file(network)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in STARTER.glob("*.safetensors")))
        raise WeightsError(
            f"there are no starter weights of {network}",
            instead=f"Use --model {known}." if known else "Use model.weights=none.",
        )
    sentence = (
        f"{network} starts from Pictune's starter weights (licence {STARTER_LICENCE}), learnt from "
        "drawn pictures alone; its last layer is a new one for your classes."
    )
    return Weights("starter", f"starter/{path.name}", STARTER_LICENCE, path, sha256_of(path), sentence)


def _from_file(path: Path) -> Weights:
    if path.suffix.lower() not in SUFFIXES:
        raise WeightsError(
            f"model.weights={path} is neither auto, hub, starter or none"
            f"{suggestion(str(path), ('auto', 'hub', 'starter', 'none'))}, nor a file of weights",
            instead=f"Name a file that ends in {', '.join(SUFFIXES)}.",
        )
    if not path.is_file():
        raise WeightsError(f"there is no file of weights at {path}", instead="Check the path.")
    sentence = (
        f"The network starts from the file {path.name} (its licence is for you to know); its last layer "
        "is replaced by a new one, unless the file has one with as many outputs as you have classes."
    )
    return Weights("file", path.name, None, path, sha256_of(path), sentence)


def _published(network: str) -> Published:
    """What the hub has for a network, as timm's own list says.

    Raises:
        UnavailableError: When it has nothing.
    """
    import timm

    from pictune.models.cnn import OWN

    card = None if network in OWN else timm.get_pretrained_cfg(network)
    if card is None or not card.hf_hub_id:
        raise UnavailableError(
            f"nobody publishes weights for {network} on the hub",
            instead="Use model.weights=none, name a file, or choose another network.",
        )
    return Published(card.hf_hub_id, card.license)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a file of weights: names to tensors, on the CPU.

    A model that a run shipped gives its network, a detector's or segmenter's its encoder. A training script's
    checkpoint is unwrapped by one rule: the tensors lie at the top, or in the
    first of ``state_dict``, ``model_state_dict``, ``model`` that is there; and a ``module.`` or
    ``_orig_mod.`` in front of every name is cut off.

    Raises:
        WeightsError: When the file is damaged, holds anything but tensors, or numbers that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read = load_file if path.suffix.lower() == ".safetensors" else _read_pytorch
    try:
        content: object = read(path)
    except FileNotFoundError as error:
        raise WeightsError(f"there is no file of weights at {path}", instead="Check the path.") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"the weights {path.name} hold more than tensors, or are damaged; such a file "
            "can run code, so it was not opened",
            instead="Save the state_dict alone, best as .safetensors.",
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"the weights {path.name} cannot be read: {brief(error)}",
            instead="The file is damaged or of another kind; get it again.",
        ) from error
    return _checked(_unwrapped(content), path)


def _read_pytorch(path: Path) -> object:
    import torch

    content: object = torch.load(path, map_location="cpu", weights_only=True)
    return content


def _unwrapped(content: object) -> object:
    if isinstance(content, dict):
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), dict)), content)
        for prefix in PREFIXES:
            if inner and all(str(name).startswith(prefix) for name in inner):
                inner = {str(name).removeprefix(prefix): value for name, value in inner.items()}
        return _of_a_run(inner)
    return content


def _of_a_run(tensors: dict[str, object]) -> dict[str, object]:
    """The network alone, where a model that a run shipped stands around it; anything else as it is."""
    if "preprocess.mean" not in tensors:
        return tensors
    inside = next((p for p in INSIDE if any(str(name).startswith(p) for name in tensors)), "")
    kept = ((str(name), value) for name, value in tensors.items())
    return {name.removeprefix(inside): value for name, value in kept if name.startswith(inside)}


def _checked(tensors: object, path: Path) -> dict[str, Tensor]:
    from torch import Tensor

    if not isinstance(tensors, dict) or not tensors:
        raise WeightsError(
            f"the weights {path.name} hold no named tensors", instead="Save a network's state_dict."
        )
    causes = [f"{name} is no tensor" for name, value in tensors.items() if not isinstance(value, Tensor)]
    causes += [
        f"{name} holds numbers that are not finite"
        for name, value in tensors.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if causes:
        raise WeightsError(f"the weights {path.name} cannot be used", causes=causes[:10])
    return tensors


def differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """How a file's tensors differ from those a network has: missing, unknown, of another shape."""
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    kinds = {"missing": missing, "unknown to the network": unknown, "of another shape": shapes}
    return [
        f"{len(names)} {kind}: {', '.join(names[:LISTED])}" + (", ..." if len(names) > LISTED else "")
        for kind, names in kinds.items()
        if names
    ]
