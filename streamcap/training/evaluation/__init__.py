"""Evaluation: scores, reports, contact sheets."""
