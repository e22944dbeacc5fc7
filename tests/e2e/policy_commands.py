"""Several `assay` commands, one after another in one process (or each of several): `python policy_commands.py FILE`, where
FILE is a JSON list of their arguments. Questions are parted by fours, so that there is something to share.

And a reward model that is a function: longer answers are better, and some even ones.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from assay import cli
from assay.records import Conversation
from assay.tuning import own_pairs, parted


def length(conversations: Sequence[Conversation]) -> list[float]:
    return [len(c[-1].content) / 8 + len(c[-1].content) % 2 for c in conversations]


def first_is_a(conversations: Sequence[Conversation]) -> list[float]:
    """A reward model that likes one letter, and has a whim."""
    return [c[-1].content.startswith("A") + ord(c[0].content[-1]) % 3 / 10 for c in conversations]


def main() -> None:
    own_pairs.PART = parted.PART = 4
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        sys.argv = ["assay", *arguments]
        cli.main()


if __name__ == "__main__":
    main()
