"""Engines on other machines than the cameras: requests, answers, credit. docs/cluster.md describes it."""
