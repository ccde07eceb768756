"""Print what pyproject.toml asks for with the given extras, one requirement a line.

`pip install -e .[dev]` would build feedfast before TensorFlow is there, and then without its op
library; so the dependencies are installed first, from this list.
"""

import re
import sys
import tomllib
from pathlib import Path


def requirements(extras: list[str]) -> list[str]:
    """The base dependencies and those of `extras`, with feedfast's own extras resolved."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    found: list[str] = list(project["dependencies"])
    pending = list(extras)
    seen: set[str] = set()
    while pending:
        extra = pending.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for requirement in project["optional-dependencies"][extra]:
            own = re.fullmatch(r"feedfast\[(.+)\]", requirement)
            if own:
                pending += own[1].split(",")
            else:
                found.append(requirement)
    return sorted(set(found))


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
