"""The models a person has: which ones lie on this machine, and what a file must hold to be one."""
