"""The one error a person sees."""

import click


class KvsplitError(click.ClickException):
    """One sentence that names the cause and the next step; exit code 1.

    ``llm`` prints it as ``Error: …`` both from a prompt and from a command,
    since it turns a ClickException into exactly that.
    """

    def __str__(self) -> str:
        return self.message
