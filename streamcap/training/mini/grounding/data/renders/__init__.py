"""Rendered views of fixed cameras that no photograph of the pool shows."""
