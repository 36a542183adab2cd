"""Models on the Hugging Face hub: download the files that a conversion reads, and no others."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from lalia.errors import UserError
from lalia.models.convert.hf import choose_languages

_WEIGHTS = (
    r"model(-\d+-of-\d+)?\.safetensors", r"pytorch_model(-\d+-of-\d+)?\.bin",
)  # fmt: skip
"""Names of a model's weights, whole or in shards; a model that has the first kind is read from it alone."""
_ADAPTER = re.compile(r"adapter\.(.+)\.(?:safetensors|bin)")
_SMALL = re.compile(r"[^/]*\.json|README\.md|LICENSE[^/]*")


def fetch_model(name: str, languages: Sequence[str]) -> Path:
    """The folder of the model ``OWNER/NAME`` (or ``OWNER/NAME@REVISION``) in the hub's cache, downloaded where it is not there.

    ``languages`` choose among the adapters of a model with many. ``UserError`` where the hub cannot be reached or has no such
    model; a model that has been downloaded before is taken from the cache without a network.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        files = HfApi(endpoint=endpoint).list_repo_files(repository, revision=revision or None)
        chosen = choose_files(files, languages, f"hub:{name}")
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=chosen, endpoint=endpoint))
    except UserError:
        raise
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise UserError(
            f"hub:{name}: the hub has no such model, or it needs a login (hf auth login); expected hub:OWNER/NAME"
        ) from error
    except Exception as error:  # any error of the network or the hub
        try:
            return Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
        except LocalEntryNotFoundError:
            raise UserError(
                f"hub:{name}: the hub cannot be reached ({type(error).__name__}); where there is a network, "
                f"`hf download {repository} --local-dir FOLDER`, then convert hf:FOLDER"
            ) from error


def choose_files(files: Sequence[str], languages: Sequence[str], where: str) -> list[str]:
    """Of the ``files`` of a model on the hub those that a conversion reads: settings, weights, the adapters of ``languages``."""
    weights = next((found for kind in _WEIGHTS if (found := [f for f in files if re.fullmatch(kind, f)])), None)
    if "config.json" not in files or weights is None:
        raise UserError(
            f"{where}: has no config.json with model.safetensors or pytorch_model.bin; is it transformers' layout?"
        )
    adapters: dict[str, str] = {}
    for file in sorted(files):  # .bin before .safetensors, which is taken
        if named := _ADAPTER.fullmatch(file):
            adapters[named[1]] = file
    codes = choose_languages(adapters, "", languages, where) if adapters and languages else []
    return [*(file for file in files if _SMALL.fullmatch(file)), *weights, *(adapters[code] for code in codes)]
