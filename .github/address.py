"""Write the repository's address into the Colab badge and the notebook's set-up cell.

python .github/address.py owner/name branch      # what `make address` and the workflow `address`
call
"""

import re
import sys
from pathlib import Path

BADGE = re.compile(r"https://colab\.research\.google\.com/github/[^)\s\"\\]*")
SETUP = re.compile(r'REPOSITORY, BRANCH = (\\?")[^"\\]*\\?", \\?"[^"\\]*\\?"')


def write_address(folder, repository, branch):
    """Rewrite README.md and S10_model.ipynb in `folder` where they differ; returns the names of the
    changed files.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository) or not re.fullmatch(r"[\w./-]+", branch):
        raise SystemExit(f"{repository!r}, {branch!r}: give owner/name and a branch")
    changed = []
    for name in ("README.md", "S10_model.ipynb"):
        path = Path(folder, name)
        old = path.read_text(encoding="utf-8")
        badge = (
            f"https://colab.research.google.com/github/{repository}/blob/{branch}/S10_model.ipynb"
        )
        new = BADGE.sub(badge, old)
        line = (
            rf"REPOSITORY, BRANCH = \g<1>https://github.com/{repository}\g<1>, \g<1>{branch}\g<1>"
        )
        new = SETUP.sub(line, new)
        if new != old:
            path.write_text(new, encoding="utf-8", newline="\n")
            changed.append(name)
    return changed


if __name__ == "__main__":
    print(
        "changed:", ", ".join(write_address(Path(__file__).parents[1], *sys.argv[1:3])) or "nothing"
    )
