"""Help texts with the defaults that say something."""

from __future__ import annotations

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default of an option unless it is None, off or empty, or the text tells it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default is None or default is False or default == []:
            return action.help
        if action.required or "default:" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)
