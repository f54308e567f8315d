"""Measure checkpoints: judge pictures, write the tables, calibrate, probe."""
