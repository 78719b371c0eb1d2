"""One module a command of ``kvsplit-patch``; each holds one click command named ``command``."""
