"""The nightly run: upstream's newest, the commit behind each break, and what GitHub is told."""
