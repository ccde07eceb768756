"""The parts of `feedfast bench step`."""
