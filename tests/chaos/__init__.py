"""Faults on purpose, and an oracle that says what they may not change."""
