"""The parts of the workload `distributed`."""
