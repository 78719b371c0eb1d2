"""The one error a maintainer sees."""

import click


class PatchError(click.ClickException):
    """One sentence that names the cause and the next step; exit code 1.

    Not ``llm_kvsplit.errors.KvsplitError``: importing that package imports llm,
    which takes longer than most of our commands.
    """

    def __str__(self) -> str:
        return self.message


class Unable(PatchError):
    """This machine cannot tell, for want of a compiler or of room: that says nothing about the series."""


class NetworkError(Unable):
    """Something out there did not answer, or not in time: worth another try later."""
