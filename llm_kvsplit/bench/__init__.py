"""Measure what a cache costs and what it saves, on the person's own model."""
