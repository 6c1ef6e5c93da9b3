"""What was chosen of a target's own options, read and checked before any work."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from qcompiler.errors import OptionError, suggest
from qcompiler.target import Target, TargetOption


def chosen_options(target: Target, given: Mapping[str, object]) -> dict[str, str]:
    """All of the target's own options with what was chosen, or their defaults.

    Args:
        target: The target.
        given: By the option's name, a choice, a text, or the path of a file.

    Returns:
        By the option's name, the choice, the text, or what the file holds; empty texts where nothing was given.

    Raises:
        OptionError: The target has no such option, does not offer what was chosen, or a file cannot be read.
    """
    for name in given:
        if name not in target.option:
            raise OptionError(
                f"--target-option {name}: {target.label} has no such option{suggest(name, target.option)}"
            )
    defaults = {name: option.default for name, option in target.option.items()}
    return defaults | {
        name: _read(target, name, target.option[name], str(text)) for name, text in given.items()
    }


def recorded_options(target: Target, chosen: Mapping[str, str]) -> dict[str, str]:
    """Chosen options for a manifest: of files, the SHA-256 of what they hold."""
    return {
        name: hashlib.sha256(text.encode()).hexdigest()
        if text and target.option[name].takes == "file"
        else text
        for name, text in chosen.items()
    }


def _read(target: Target, name: str, option: TargetOption, given: str) -> str:
    if option.takes == "choice" and given not in option.accepted:
        raise OptionError(
            f"--target-option {name}={given}: {target.label} offers {', '.join(option.accepted)}{suggest(given, option.accepted)}"
        )
    return _file_text(name, Path(given)) if option.takes == "file" and given else given


def _file_text(name: str, path: Path) -> str:
    start = f"--target-option {name}={path}"
    try:
        text = path.read_bytes().decode("utf-8-sig")  # some editors begin files with a mark
    except OSError as error:
        raise OptionError(
            f"{start}: the file cannot be read: {error.strerror}. Give the path of a text file."
        ) from error
    except UnicodeDecodeError as error:
        raise OptionError(
            f"{start}: the file is no text in UTF-8 ({error.reason} at byte {error.start})."
        ) from error
    if not text.strip():
        raise OptionError(f"{start}: the file is empty.")
    return text
