"""hf://owner/name: files of the Hugging Face Hub, by its own library and cache."""

import os
import re
from collections.abc import Sequence


def local(path: str | os.PathLike, patterns: Sequence[str]) -> str | os.PathLike:
    """The local path of `hf://owner/name`, or of `hf://owner/name/FILE`; any other as it is.

    What the cache holds is not fetched again, and without a network it is all there is.

    Args:
        path: what a user gave.
        patterns: which files of a whole repository are wanted.

    Raises:
        ImportError: without huggingface_hub.
        ValueError: for a name that is none.
        FileNotFoundError: if it is neither in the cache nor to be had.
    """
    if not str(path).startswith("hf://"):
        return path
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:/(.+))?", str(path))
    if not match:
        raise ValueError(f"a name on the hub is hf://owner/name. Received: {path}")
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError("hf:// needs huggingface_hub: pip install huggingface_hub") from None
    name, file = match.groups()
    try:
        if file:
            return huggingface_hub.hf_hub_download(name, file)
        return huggingface_hub.snapshot_download(name, allow_patterns=list(patterns))
    except (OSError, huggingface_hub.errors.HFValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise FileNotFoundError(f"{path} is neither cached nor to be had: {reason}") from error
