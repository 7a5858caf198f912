"""Which licences of pretrained weights are taken without asking.

A fine-tuned model inherits the conditions of the weights it started from. Licences that ask for no
more than a notice are taken; any other, and an unknown one, only after the user said its name.

``cc-by-4.0`` counts among the permissive ones: it allows every use, also commercial, and asks for
credit, which the sentence about the weights passes on.
"""

from __future__ import annotations

from collections.abc import Collection

from pictune.errors import WeightsError

PERMISSIVE = (
    "apache-2.0",
    "mit",
    "bsd-2-clause",
    "bsd-3-clause",
    "isc",
    "cc0-1.0",
    "unlicense",
    "cc-by-4.0",
)
UNKNOWN = "unknown"


def check_licence(licence: str | None, *, of: str, allowed: bool | Collection[str] = ()) -> str:
    """Refuses weights whose licence the user has to agree to first.

    Args:
        licence: As its publisher names it; None or empty when nobody says.
        of: What the licence belongs to, for the message.
        allowed: Licences the user accepts besides the permissive ones; True accepts any.

    Returns:
        The licence as a phrase for people, such as ``licence mit`` or
        ``licence cc-by-nc-4.0, which you allowed``.

    Raises:
        WeightsError: When the licence is neither permissive nor allowed.
    """
    name = (licence or UNKNOWN).strip().lower()
    if name in PERMISSIVE:
        return f"licence {name}" + (", which asks you to give credit" if name == "cc-by-4.0" else "")
    if allowed is True or (allowed and name in {_.strip().lower() for _ in allowed}):
        return f"licence {name}, which you allowed"
    what = "nobody says under which licence" if name == UNKNOWN else f"their licence is {name}"
    raise WeightsError(
        f"the pretrained weights {of} were not loaded: {what}, and it may forbid what you plan",
        causes=(f"taken without asking: {', '.join(PERMISSIVE)}",),
        instead=(
            f"Read the licence; if it suits you, say so with --set model.allow_licence={name}. "
            "Otherwise choose another network, or model.weights=none."
        ),
    )
