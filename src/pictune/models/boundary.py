"""Cuts a network in two where nothing below learns: pictures to activation, activation to outputs.

No family of networks is known here. Each module of a network is watched during one forward pass; then the
last one that comes before everything that learns is tried as the place to cut. What lies below is replaced
by stand-ins that cost nothing, the cut is proven by comparing outputs and gradients with those of the
whole network, and where none holds, such as across a skip connection, an earlier place is tried.

Shapes: n pictures, [n, s, s, 3] pixels, an activation [n, ...], k outputs.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from pictune.models.freezing import train_mode

PLACES_TRIED = 12  # a block has a handful of modules; farther down there is little left to save
TOLERANCE = 1e-4  # of outputs and gradients, beside their size
PICTURES = 2  # watched; with one, every first dimension would be a whole number of pictures
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, DropPath)


@dataclass(frozen=True)
class Cut:
    """A network in two parts that share its tensors: what one of them learns, the network has learnt.

    Args:
        below: Pixels [n, s, s, 3] to the activation; nothing in it learns.
        above: The activation to outputs [n, k].
        module: Name of the module whose output is the activation.
        shape: Of one picture's activation.
        later: Names of the network's tensors that are used only after it.
    """

    below: nn.Module
    above: nn.Module
    module: str
    shape: tuple[int, ...]
    later: frozenset[str]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the activation: where the cut is, and every tensor below it."""
        digest = hashlib.sha256(f"{self.module} {self.shape}\n".encode())
        for name, tensor in self.below.state_dict().items():
            plain = name.removeprefix("network.")
            if plain not in self.later:
                digest.update(f"{plain} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


def cut(network: nn.Module, *, image_size: int) -> Cut | None:
    """Cuts a network at the last place below which nothing learns.

    Args:
        network: Pixels [n, s, s, 3] uint8 in, outputs [n, k] out; what learns has a gradient.
        image_size: s.

    Returns:
        The two parts, or None where no cut holds: something learns near the input, or the information
        flows past every module that could be cut at.
    """
    device = next(network.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        shape = (PICTURES + 1, image_size, image_size, 3)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    training = {module: module.training for module in network.modules()}
    train_mode(network)
    awake = frozenset(name for name, module in network.named_modules() if module.training)
    network.eval()
    try:
        calls = _watch(network, pixels[:PICTURES])
        for place in _places(network, calls, awake)[:PLACES_TRIED]:
            below, above = _Below(network, place.module), _Above(network, calls, place)
            made = Cut(below, above, place.module, place.shape, _later(network, calls, place))
            # One picture more than was watched, so that no shape may be taken for the batch's by chance.
            if _holds(network, made, pixels):
                return made
        return None
    finally:
        for module, was in training.items():
            module.training = was


@dataclass
class _Call:
    """One use of a module in a forward pass: when it began and ended, and what came out."""

    module: str
    began: int
    ended: int = -1
    rows: int = 0  # first dimension of the output for one picture; windows make it more than one
    shape: tuple[int, ...] = ()
    single: bool = True  # used once, and the output is one tensor
    kind: type[nn.Module] = nn.Module


def _watch(network: nn.Module, pixels: Tensor) -> dict[str, _Call]:
    """Every module's use, by name."""
    calls: dict[str, _Call] = {}
    clock = iter(range(1 << 40))

    def begin(name: str, module: nn.Module) -> None:
        if name in calls:
            calls[name].single = False
        else:
            calls[name] = _Call(name, next(clock), kind=type(module))

    def end(name: str, output: object) -> None:
        call = calls[name]
        call.ended = next(clock)
        batched = isinstance(output, Tensor) and output.ndim > 1 and output.shape[0] % len(pixels) == 0
        if isinstance(output, Tensor) and batched:
            call.rows, call.shape = output.shape[0] // len(pixels), tuple(output.shape[1:])
        else:
            call.single = False

    handles = []
    for name, module in network.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(lambda m, _, name=name: begin(name, m)))
            handles.append(module.register_forward_hook(lambda m, _, output, name=name: end(name, output)))
    try:
        with torch.no_grad():
            network(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _places(network: nn.Module, calls: Mapping[str, _Call], awake: Collection[str]) -> list[_Call]:
    """Calls that ended before anything that learns or drops began, the last one first.

    Args:
        network: What learns has a gradient.
        calls: Of its modules.
        awake: Names of modules that are in training mode while it learns: their dropout stays random.
    """
    modules = dict(network.named_modules())
    own = {name: list(module.parameters(recurse=False)) for name, module in modules.items()}
    learning = [name for name, parameters in own.items() if any(p.requires_grad for p in parameters)]
    # Before the first layer there are only pixels: nothing is saved by keeping those.
    layers = [calls[name].began for name, parameters in own.items() if parameters and name in calls]
    # A learning tensor of a module that is never called counts from its parent on.
    firsts = [_began(name, calls) for name in learning]
    if not firsts or min(firsts) < 0 or not layers:
        return []
    random = [calls[name].began for name in awake if name in calls and _drops(modules[name])]
    between = range(min(layers), min([*firsts, *random]))
    before = sorted((c for c in calls.values() if c.ended in between and c.single), key=lambda c: c.ended)
    places = [
        call
        for earlier, call in pairwise(before)
        # What passes everything on is worth a try only where it shows another tensor than the one before,
        # such as the pooled token of a transformer.
        if not issubclass(call.kind, (*DROPOUT, nn.Identity))
        or (call.kind is nn.Identity and call.shape != earlier.shape)
    ]
    return [call for call in reversed([*before[:1], *places]) if call.rows == 1]


def _drops(module: nn.Module) -> bool:
    rate = module.drop_prob if isinstance(module, DropPath) else getattr(module, "p", 0.0)
    return isinstance(module, DROPOUT) and float(rate) > 0


def _began(module: str, calls: Mapping[str, _Call]) -> int:
    while module and module not in calls:
        module = module.rpartition(".")[0]
    return calls[module].began if module else -1


def read_input(network: nn.Module, module: str, given: Tensor) -> Tensor:
    """What goes into a module of a network when the network is given something.

    Args:
        network: In the mode in which it is to run.
        module: Name of the module; what comes after it is not computed.
        given: What the network takes.
    """

    def reach(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        raise _Reached(inputs[0])

    handle = network.get_submodule(module).register_forward_pre_hook(reach)
    try:
        network(given)
    except _Reached as reached:
        return reached.activation
    finally:
        handle.remove()
    raise AssertionError(f"the network does not come to its module {module}")


def _later(network: nn.Module, calls: Mapping[str, _Call], place: _Call) -> frozenset[str]:
    """Names of tensors whose modules begin after the place ends, and so do not decide its activation.

    Tensors of a module around it, such as the position embedding of a transformer, may well decide it.
    """
    names = network.state_dict()
    return frozenset(name for name in names if _began(name.rpartition(".")[0], calls) > place.ended)


class _Reached(Exception):  # noqa: N818 - not an error: the forward pass has come as far as it should
    """Carries the activation out of a forward pass."""

    def __init__(self, activation: Tensor) -> None:
        super().__init__()
        self.activation = activation


class _Below(nn.Module):
    """Runs a network up to the end of one module."""

    def __init__(self, network: nn.Module, module: str) -> None:
        super().__init__()
        self.network = network
        self._module = module

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, s, s, 3] to the activation."""

        def reach(module: nn.Module, inputs: object, output: Tensor) -> None:
            raise _Reached(output)

        handle = self.network.get_submodule(self._module).register_forward_hook(reach)
        try:
            self.network(pixels)
        except _Reached as reached:
            return reached.activation
        finally:
            handle.remove()
        raise AssertionError("a module that was watched is called again")


@dataclass
class _Reel:
    """What the stand-ins of one network play: how many pictures, and the activation."""

    activation: Tensor = field(default_factory=lambda: torch.zeros(0))


class _Replay(nn.Module):
    """Stands where the network was cut, and gives the activation whatever comes in."""

    def __init__(self, original: nn.Module, reel: _Reel) -> None:
        super().__init__()
        _look_like(self, original)
        self._reel = reel

    def forward(self, *ignored: object, **named: object) -> Tensor:
        """The activation."""
        return self._reel.activation


class _StandIn(nn.Module):
    """Stands for a module below the cut: zeros of the right shape, which take no memory and no time."""

    def __init__(self, original: nn.Module, reel: _Reel, call: _Call) -> None:
        super().__init__()
        _look_like(self, original)
        self._reel, self._rows, self._shape = reel, call.rows, call.shape

    def forward(self, *ignored: object, **named: object) -> Tensor:
        """Zeros."""
        activation = self._reel.activation
        return activation.new_zeros(()).expand(len(activation) * self._rows, *self._shape)


def _look_like(stand_in: nn.Module, original: nn.Module) -> None:
    """Some networks read plain facts off their modules, such as the size of a patch."""
    for name, value in vars(original).items():
        plain = isinstance(value, int | float | str | tuple)
        if plain and not name.startswith("_") and name != "training":
            setattr(stand_in, name, value)


class _Above(nn.Module):
    """A network that goes on from an activation; its tensors are those of the whole network."""

    def __init__(self, network: nn.Module, calls: Mapping[str, _Call], place: _Call) -> None:
        super().__init__()
        tensors = [*network.parameters(), *network.buffers()]
        self.network = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
        self._reel = _Reel()
        for call in _topmost(calls, place):
            original = network.get_submodule(call.module)
            made = _Replay(original, self._reel) if call is place else _StandIn(original, self._reel, call)
            self.network.set_submodule(call.module, made)

    def forward(self, activation: Tensor) -> Tensor:
        """The activation to outputs [n, k]."""
        self._reel.activation = activation
        pixels = activation.new_zeros((), dtype=torch.uint8).expand(len(activation), 1, 1, 3)
        outputs: Tensor = self.network(pixels)
        self._reel.activation = activation.new_zeros(0)  # it is large, and not needed any more
        return outputs


def _topmost(calls: Mapping[str, _Call], place: _Call) -> list[_Call]:
    """The place itself, and the outermost modules that are over and done with before it ends."""
    done = {c.module: c for c in calls.values() if c.single and c.ended < place.ended} | {place.module: place}
    inner = [name for name in done if any(name.startswith(f"{outer}.") for outer in done)]
    return [call for name, call in done.items() if name not in inner]


def _holds(network: nn.Module, made: Cut, pixels: Tensor) -> bool:
    """Whether the two parts together give the outputs and gradients of the whole."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        with torch.no_grad():
            activation = made.below(pixels)
        outputs, expected = made.above(activation), network(pixels)
        weights = torch.linspace(0.5, 1.5, expected.numel(), device=expected.device).view(expected.shape)
        ours = torch.autograd.grad((outputs * weights).sum(), learning, allow_unused=True)
        theirs = torch.autograd.grad((expected * weights).sum(), learning, allow_unused=True)
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, IndexError):
        return False  # the network minds the stand-ins
    pairs = [(outputs, expected), *zip(ours, theirs, strict=True)]
    return all(_alike(a, b) for a, b in pairs)


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is None and other is None
    size = float(other.detach().abs().max()) or 1.0
    return one.shape == other.shape and float((one - other).detach().abs().max()) <= TOLERANCE * size
