"""The exceptions a user can meet, as one tree.

    PictuneError
    ├── InputError            the user's input is wrong              exit code 2
    │   ├── RecipeError       a setting is unknown, misspelt or out of range
    │   ├── DataError         the pictures, labels or splits cannot be used
    │   ├── WeightsError      pretrained weights are absent, broken or not permitted
    │   ├── RunError          a run folder is absent, broken or in use
    │   ├── ArtifactError     an exported model is broken, changed or not permitted
    │   └── DivergedError     a loss or gradient stopped being a number
    ├── MachineError          disk or memory ran out                 exit code 3
    ├── ServerError           a server refused, or is not there      exit code 1
    └── StoppedError          a signal came, and the work was saved  exit code 130 or 143

Every message says what happened, what was found, and what to do instead. An error that
has several causes carries them all: one call, one complete answer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


class PictuneError(Exception):
    """What pictune raises on purpose; anything else that escapes is a fault of ours.

    Args:
        message: One plain sentence: what happened.
        causes: The single mistakes behind it, each a full sentence, all of them.
        instead: What the user can do now.
    """

    exit_code = 1

    def __init__(self, message: str, *, causes: Sequence[str] = (), instead: str = "") -> None:
        self.message = message
        self.causes = tuple(causes)
        self.instead = instead
        super().__init__(self.text())

    def text(self) -> str:
        """The whole message as it is shown: the sentence, the causes as a list, the way out."""
        lines = [self.message, *(f"  - {cause}" for cause in self.causes)]
        return "\n".join([*lines, self.instead] if self.instead else lines)


class InputError(PictuneError):
    """The user's input is wrong; nothing was changed."""

    exit_code = 2


class RecipeError(InputError):
    """One or more settings are unknown, misspelt, out of range or in conflict."""


class DataError(InputError):
    """The pictures, labels or splits cannot be used as they are.

    Args:
        message: One plain sentence: what happened.
        code: A short stable name of the reason, such as ``one_class`` or ``leak``.
        causes: Files or lines and what is wrong with each.
        instead: What the user can do now.
    """

    def __init__(self, message: str, *, code: str, causes: Sequence[str] = (), instead: str = "") -> None:
        self.code = code
        super().__init__(message, causes=causes, instead=instead)

    def text(self) -> str:
        """The message with its reason code at the end of the first line."""
        first, *rest = super().text().split("\n")
        return "\n".join([f"{first} [{self.code}]", *rest])


class WeightsError(InputError):
    """Pretrained weights are absent, broken, or their licence is not permitted."""


class RunError(InputError):
    """A run folder is absent, broken, of another kind, or in use by another process."""


class ArtifactError(InputError):
    """An exported model cannot be used, or may not be shipped.

    Args:
        message: One plain sentence: what happened.
        code: A short stable name of the reason, such as ``changed`` or ``missing_file``.
        causes: What is wrong, piece by piece.
        instead: What the user can do now.
    """

    def __init__(self, message: str, *, code: str, causes: Sequence[str] = (), instead: str = "") -> None:
        self.code = code
        # A stranger's file names its parts as it likes, and these names stand in logs and on terminals.
        super().__init__(one_line(message), causes=[one_line(cause) for cause in causes], instead=instead)

    def text(self) -> str:
        """The message with its reason code at the end of the first line."""
        first, *rest = super().text().split("\n")
        return "\n".join([f"{first} [{self.code}]", *rest])


class DivergedError(InputError):
    """A loss or a gradient stopped being a finite number; the weights were not touched by it."""


class MachineError(PictuneError):
    """The machine stopped the work: disk full or memory exhausted."""

    exit_code = 3


class StoppedError(PictuneError):
    """A signal stopped the work after it was saved.

    Args:
        message: What was saved and how to go on.
        signal: The number of the signal; the exit code is 128 plus it.
    """

    def __init__(self, message: str, *, signal: int) -> None:
        self.exit_code = 128 + signal
        super().__init__(message)


class ServerError(PictuneError):
    """A server refused a request, or is not there.

    Args:
        message: What it said.
        status: Of HTTP; 0 when there was no answer.
        code: A short stable name of the reason, such as ``queue_full``.
        retry_after: Seconds after which it may be asked again; None when that would not help.
        instead: What the user can do now.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, status: int, code: str, retry_after: int | None = None, instead: str = ""
    ) -> None:
        self.status, self.code, self.retry_after = status, code, retry_after
        super().__init__(message, instead=instead)


def one_line(text: str) -> str:
    """Text with a sign in place of each character that breaks a line, steers a terminal or is not seen."""
    unseen = {"Cc", "Cf", "Zl", "Zp"}
    return "".join("\ufffd" if unicodedata.category(sign) in unseen else sign for sign in text)
