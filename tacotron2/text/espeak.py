"""The program espeak-ng, which turns text into phonemes.

It is under the GPL, optional, and never linked or imported: `phonemes_of` runs it as a separate process.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

from common.errors import UserError

PROGRAM = "espeak-ng"
INSTALL = "apt-get install espeak-ng (Debian, Ubuntu), brew install espeak-ng (macOS)"
# A line that no text has. It is read between the others, because a line may have several lines of phonemes or none.
SEPARATOR = "qzxjw qzxjw"
_LANGUAGE = re.compile(r"\([\w-]+\)")  # "(en)" where a word is read in another language


def phonemes_of(lines: Sequence[str], language: str) -> list[str]:
    """The phonemes of each of `lines` (IPA) in one run of espeak-ng, with spaces between words.

    A line has no line break, and at most 999 bytes. Raises UserError if the program is absent or does not have the
    language.
    """
    text = "\n".join([SEPARATOR, *(f"{line}\n{SEPARATOR}" for line in lines)]) + "\n"
    command = [PROGRAM, "-q", "-b", "1", "--ipa", "-v", language]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    except OSError as error:
        raise UserError(
            f"data.cleaners=phonemes needs the program {PROGRAM} ({error.strerror}); install it: {INSTALL}"
        ) from error
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise UserError(
            f"data.language={language}: {PROGRAM} fails ({' '.join(reason)}); the languages are listed by: "
            f"{PROGRAM} --voices"
        )
    written = done.stdout.decode(errors="replace").split("\n")
    separator, found = written[0], list[list[str]]()
    for line in written[:-1]:
        if line == separator:
            found.append([])
        else:
            found[-1].append(_LANGUAGE.sub("", line))
    if len(found) != len(lines) + 1:
        raise UserError(f"{PROGRAM} gave the phonemes of {len(found) - 1} lines for {len(lines)}; use another version")
    return [" ".join(" ".join(parts).split()) for parts in found[:-1]]
