"""The parts of `feedfast bench lookup`."""
