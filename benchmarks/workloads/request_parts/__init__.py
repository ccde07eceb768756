"""The parts of `feedfast bench request`; each has run(options) as a workload has."""
