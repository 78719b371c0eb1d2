"""What is proven of the series: that it replays, and that what is built from it still means the same."""
