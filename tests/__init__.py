"""A package by name: an installed library brings a `tests` of its own, which would be found instead."""
