"""The patch series: read, replayed onto other commits, changed step by step, and written again."""
