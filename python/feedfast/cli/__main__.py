"""`python -m feedfast.cli` is the `feedfast` command."""

from __future__ import annotations

import sys

from feedfast.cli.main import main

sys.exit(main())
