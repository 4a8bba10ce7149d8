"""Scores, replay and reports."""
