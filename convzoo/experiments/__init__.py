"""Runs and sweeps of runs, side by side."""
