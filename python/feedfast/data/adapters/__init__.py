"""Adapters from public data sets to the impression log."""
