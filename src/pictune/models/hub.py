"""Fetches one network's weights from the hub or its cache: checked, bounded, and quick to give up.

Offline means at once: nothing here retries for minutes, and nothing half-done is kept.
"""

from __future__ import annotations

import errno
import hashlib
import queue
import re
import shutil
import socket
import threading
import urllib.parse
import urllib.request
from pathlib import Path

from pictune.errors import MachineError, WeightsError

HUB_FILE = "model.safetensors"
CONNECT_SECONDS = 2.0  # a network that is off must not keep anybody waiting
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SHA256 = re.compile(r"[0-9a-f]{64}")


class UnavailableError(WeightsError):
    """The hub has no such weights, or cannot be reached; `auto` then goes on without."""


class Hub:
    """One repository of the hub: in the cache, or over the network."""

    def __init__(
        self, repository: str, *, cache: Path | None, timeout: float, endpoint: str | None, largest: int
    ) -> None:
        from huggingface_hub import constants

        # Its client tells which programs are installed and asks what may be running it: nobody's business
        constants.HF_HUB_DISABLE_TELEMETRY = True
        self.repository = repository
        self.cache = Path(constants.HF_HUB_CACHE) if cache is None else cache
        self.timeout = timeout
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self.offline = bool(constants.HF_HUB_OFFLINE)
        self.largest = largest

    def find(self) -> tuple[Path, str, str]:
        """The file, its SHA-256, and how it was found as a phrase."""
        cached = self._cached()
        if cached is not None:
            return *cached, "found in the hub's cache"
        if self.offline:
            raise self._unavailable(
                "HF_HUB_OFFLINE forbids asking the hub, and its cache lacks these weights"
            )
        _check_private(self.endpoint)
        obstacle = _obstacle(self.endpoint, seconds=min(CONNECT_SECONDS, self.timeout))
        if obstacle:
            raise self._unavailable(f"the hub at {self.endpoint} cannot be reached ({obstacle})")
        expected, size = self._ask()
        path = self._download(size)
        checksum = sha256_of(path)
        if checksum != expected:
            _forget(path)
            raise WeightsError(
                f"the weights {self.repository} arrived damaged: their SHA-256 is {checksum}, "
                f"the hub names {expected}; the file was deleted",
                instead="Run the same command again; if it stays so, something on the way changes downloads.",
            )
        return path, checksum, "downloaded from the hub and checked"

    def _cached(self) -> tuple[Path, str] | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repository, HUB_FILE, cache_dir=self.cache)
        if not isinstance(found, str):
            return None
        path, checksum = Path(found), sha256_of(Path(found))
        # The cache names every large file by its SHA-256 and links to it.
        expected = path.readlink().name if path.is_symlink() else checksum
        if SHA256.fullmatch(expected) and checksum != expected:
            raise WeightsError(
                f"the weights {self.repository} in the hub's cache are damaged: "
                f"their SHA-256 is {checksum}, it should be {expected}",
                instead=f"Delete {path.parents[2]} and run the same command again.",
            )
        return path, checksum

    def _ask(self) -> tuple[str, int]:
        """The SHA-256 and the size in bytes that the hub names for the file; one request, no retry."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError

        url = hf_hub_url(self.repository, HUB_FILE, endpoint=self.endpoint)
        try:
            facts = get_hf_file_metadata(url, timeout=self.timeout, endpoint=self.endpoint)
        except HfHubHTTPError as error:
            raise self._refused(error.response.status_code) from error
        except Exception as error:  # the client below has been requests, httpx and httpx2: no common ancestor
            raise self._unavailable(
                f"the hub at {self.endpoint} did not answer within {self.timeout:g} s ({brief(error)})"
            ) from error
        if not facts.etag or not SHA256.fullmatch(facts.etag) or not facts.size:
            raise WeightsError(
                f"the hub at {self.endpoint} names no SHA-256 and size for {self.repository}, "
                "so a download could not be checked",
                instead="Use another hub (HF_ENDPOINT), or download the file yourself and name its path.",
            )
        if facts.size > self.largest:
            raise WeightsError(
                f"the weights {self.repository} have {facts.size:,} bytes; "
                f"at most {self.largest:,} are downloaded",
                instead="Choose a smaller network, or download the file yourself and name its path.",
            )
        return facts.etag, facts.size

    def _download(self, size: int) -> Path:
        """Into the cache, by way of a temporary name; a connection that breaks is taken up again."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import tqdm

        home = next(p for p in (self.cache, *self.cache.absolute().parents) if p.exists())
        if shutil.disk_usage(home).free < size:
            raise MachineError(
                f"the disk of {home} has no room for {size:,} bytes of weights",
                instead="Free some space, or move the cache with HF_HUB_CACHE.",
            )

        class Bar(tqdm):  # type: ignore[misc]
            """Progress that gives up when the same bytes keep coming and the file never ends."""

            received = 0.0

            def update(self, n: float | None = 1) -> bool | None:
                self.received += max(n or 0, 0)
                if self.received > 2 * size:
                    raise ConnectionError("the connection broke again and again")
                return super().update(n)  # type: ignore[no-any-return]

        try:
            return Path(
                hf_hub_download(
                    self.repository,
                    HUB_FILE,
                    cache_dir=self.cache,
                    endpoint=self.endpoint,
                    etag_timeout=self.timeout,
                    tqdm_class=Bar,
                )
            )
        except Exception as error:  # as in `_ask`
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise MachineError(f"the disk of {home} is full", instead="Free some space.") from error
            raise WeightsError(
                f"the download of {self.repository} did not finish ({brief(error)}); nothing was kept",
                instead="Run the same command again, or go on without: model.weights=none.",
            ) from error

    def _refused(self, status: int) -> UnavailableError:
        if status in (401, 403):
            return self._unavailable(
                f"the hub gives {self.repository} only to those who log in or agree to its terms ({status})",
                f"Visit {self.endpoint}/{self.repository}, then set HF_TOKEN.",
            )
        if status == 404:
            return self._unavailable(
                f"the hub at {self.endpoint} has no {HUB_FILE} of {self.repository} (404)"
            )
        return self._unavailable(f"the hub at {self.endpoint} is out of order ({status})")

    def _unavailable(self, what: str, *ways: str) -> UnavailableError:
        """The error, with everything that is possible instead."""
        cached = sorted(
            path.parents[2].name.removeprefix("models--").replace("--", "/")
            for path in self.cache.glob(f"models--*/snapshots/*/{HUB_FILE}")
        )
        here = f"Already here, if one of these will do: {', '.join(dict.fromkeys(cached))}" if cached else ""
        options = (
            *ways,
            "Start at random: model.weights=none.",
            "Name a file: model.weights=PATH.",
            f"Copy {self.repository} into the cache {self.cache} from a machine that has it.",
            here,
        )
        return UnavailableError(
            what, causes=[o for o in options if o], instead="Each of the above is a way on."
        )


def brief(error: BaseException) -> str:
    """The first line of an error, or its kind when it has no words."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def _check_private(address: str) -> None:
    """Refuses a hub that is asked without TLS: whoever sits between changes weights and checksum alike.

    Raises:
        WeightsError: When it is neither asked by https nor on this machine.
    """
    url = urllib.parse.urlsplit(address)
    if url.scheme != "https" and url.hostname not in LOOPBACK:
        raise WeightsError(
            f"the hub at {address} would be asked without TLS: anybody on the way could change the weights",
            instead="Name an address with https:// in HF_ENDPOINT, or download the file and name its path.",
        )


def _obstacle(address: str, *, seconds: float) -> str:
    """Why no connection can be opened to an address (or to the proxy before it); empty when one can.

    Looking up a name can take half a minute when the network is off and cannot be told to hurry, so
    it happens in a thread that is not waited for any longer than this.
    """
    url = urllib.parse.urlsplit(address)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.netloc):
        url = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = url.port or (443 if url.scheme == "https" else 80)
    answer: queue.SimpleQueue[str] = queue.SimpleQueue()

    def knock() -> None:
        try:
            socket.create_connection((url.hostname, port), timeout=seconds).close()
        except OSError as error:
            answer.put(brief(error))
        else:
            answer.put("")

    threading.Thread(target=knock, daemon=True).start()
    try:
        return answer.get(timeout=seconds)
    except queue.Empty:
        return f"no answer within {seconds:g} s"


def _forget(path: Path) -> None:
    """Removes a file from the hub's cache: the link and what it points to."""
    if path.is_symlink():
        (path.parent / path.readlink()).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
