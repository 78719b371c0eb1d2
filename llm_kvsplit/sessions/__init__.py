"""KV state kept on disk between processes, so that a follow-up question does not start from nothing."""
