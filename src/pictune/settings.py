"""How a setting is declared: once, with its help, its bounds and the range a search may try.

A *part* (a loss, an augmentation step, an optimizer, a schedule) is a plain function whose
keyword-only parameters are its settings. Its table, its check, its YAML, its command line help
and its search range all come from that one signature:

    def focal(*, gamma: Annotated[float, Setting("how strongly easy images are muted", low=0, high=10,
                                                 search=Search(0.5, 5))] = 2.0) -> Loss:
        '''Focal loss: mutes what is already easy (Lin et al. 2017, arXiv 1708.02002).'''

    LOSSES = Parts("loss", (cross_entropy, focal))
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

import pydantic

from pictune.errors import RecipeError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Search:
    """The range a hyperparameter search may try: two ends (optionally on a log scale) or choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """What one setting means and which values it may take.

    Args:
        help: One plain phrase, with the unit.
        low: Smallest value allowed.
        high: Largest value allowed.
        above: The value must be strictly greater than this.
        choices: The only values allowed.
        search: What a hyperparameter search may try.
    """

    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[Any, ...] = ()
    search: Search | None = None

    def complaint(self, value: Any) -> str | None:
        """What is wrong with a value of the right type, as a phrase; None when it is allowed."""
        if self.choices and value not in self.choices:
            known = [str(choice) for choice in self.choices]
            return f"must be one of {', '.join(known)}{suggestion(str(value), known)}"
        numbers = [v for v in (value if isinstance(value, tuple | list) else (value,)) if _is_number(v)]
        for number in numbers:
            if not -float("inf") < number < float("inf"):
                return "must be a finite number"
            if self.low is not None and number < self.low:
                return f"must be at least {self.low:g}"
            if self.high is not None and number > self.high:
                return f"must be at most {self.high:g}"
            if self.above is not None and number <= self.above:
                return f"must be greater than {self.above:g}"
        return None

    def range_text(self) -> str:
        """The allowed values in words, for help and comments; empty when anything goes."""
        if self.choices:
            return " | ".join(map(str, self.choices))
        if self.above is not None:
            return f"> {self.above:g}" + (f" and <= {self.high:g}" if self.high is not None else "")
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        if self.low is not None:
            return f">= {self.low:g}"
        return f"<= {self.high:g}" if self.high is not None else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def setting_of(annotation: Any) -> Setting | None:
    """The `Setting` inside an ``Annotated[...]``, if there is one."""
    if get_origin(annotation) is Annotated:
        return next((extra for extra in get_args(annotation) if isinstance(extra, Setting)), None)
    return None


def suggestion(name: object, known: Iterable[str]) -> str:
    """`` (did you mean x?)`` for the nearest known name, or an empty text when none is near."""
    known = list(known)
    lowered = {k.lower(): k for k in known}
    near = difflib.get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.6)
    return f" (did you mean {lowered[near[0]]}?)" if near else ""


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """One line of a table of parts: a name and the function that makes it.

    Args:
        name: How a recipe names it.
        build: The function; every setting is keyword-only, annotated and has a default.
        settings: Its settings, by name, as ``(type, Setting, default)``.
    """

    name: str
    build: Callable[..., T]
    settings: Mapping[str, tuple[Any, Setting, Any]]

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.build) or "").split("\n", 1)[0]

    def check(self, given: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
        """Coerces and checks settings for this part.

        Args:
            given: Setting names and values as they came from YAML or the command line.
            where: How to call this place in a message, such as ``loss``.

        Returns:
            The complete settings, defaults included, and every mistake found.
        """
        mistakes = [
            f"{where}.{name}: {self.name} has no such setting{suggestion(name, self.settings)}"
            + ("" if self.settings else f"; {self.name} takes none")
            for name in given
            if name not in self.settings
        ]
        complete: dict[str, Any] = {}
        for name, (kind, setting, default) in self.settings.items():
            value, mistake = check_value(given[name], kind, setting) if name in given else (default, None)
            complete[name] = value
            if mistake:
                mistakes.append(f"{where}.{name}: {mistake}")
        return complete, mistakes

    def make(self, **given: Any) -> T:
        """Builds the part from checked settings.

        Raises:
            RecipeError: With every unknown or impossible setting.
        """
        complete, mistakes = self.check(given, self.name)
        if mistakes:
            raise RecipeError(f"{self.name} cannot be made as asked", causes=mistakes)
        return self.build(**complete)


def check_value(value: Any, kind: Any, setting: Setting) -> tuple[Any, str | None]:
    """One value against its declared type and bounds.

    Returns:
        The coerced value and what is wrong with it (None when nothing is).
    """
    try:
        coerced = pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError as error:
        return value, f"{_plain(error)}, found {value!r}"
    if isinstance(value, bool) and not isinstance(coerced, bool):
        return value, f"should be a number, found {value!r}"  # to pydantic, true is the number 1
    complaint = setting.complaint(coerced)
    return coerced, f"{complaint}, found {value!r}" if complaint else None


def _plain(error: pydantic.ValidationError) -> str:
    """Pydantic's words in ours: the first complaints, lower-case, without addresses."""
    texts = [complaint["msg"].replace("Input should be", "should be") for complaint in error.errors()]
    return " or ".join(text[:1].lower() + text[1:] for text in list(dict.fromkeys(texts))[:2])


class Parts(Mapping[str, Part[T]]):
    """The table of all parts of one kind, in the order in which they are shown.

    Args:
        kind: What they are, in the singular: ``loss``, ``optimizer``.
        builders: The functions; a part's name is its function's name.
    """

    def __init__(self, kind: str, builders: Sequence[Callable[..., T]]) -> None:
        self.kind = kind
        self._parts = {_name_of(build): _part(build) for build in builders}
        assert len(self._parts) == len(builders), f"two parts of one name among {kind}"

    def __getitem__(self, name: str) -> Part[T]:
        try:
            return self._parts[name]
        except KeyError:
            raise RecipeError(
                f"there is no {self.kind} called {name!r}{suggestion(name, self._parts)}",
                instead=f"Choose one of {', '.join(self._parts)}.",
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def _name_of(build: Callable[..., Any]) -> str:
    return str(build.__name__).rstrip("_")


def _part(build: Callable[..., T]) -> Part[T]:
    hints = get_type_hints(build, include_extras=True)
    settings = {}
    for name, parameter in inspect.signature(build).parameters.items():
        setting = setting_of(hints[name])
        assert setting is not None, f"{_name_of(build)}.{name} has no Setting"
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, f"{_name_of(build)}.{name} is positional"
        assert parameter.default is not inspect.Parameter.empty, f"{_name_of(build)}.{name} has no default"
        settings[name] = (hints[name], setting, parameter.default)
    assert build.__doc__, f"{_name_of(build)} has no docstring"
    return Part(_name_of(build), build, settings)
