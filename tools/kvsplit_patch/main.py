"""``kvsplit-patch``: parses the command line and hands over to ``commands/``, nothing else."""

from importlib import import_module

import click

from kvsplit_patch.errors import PatchError

# The order of ``--help``. A name here is a module of ``commands``.
COMMANDS = (
    "status",
    "fetch",
    "rebase",
    "continue",
    "skip",
    "abort",
    "undo",
    "keep",
    "apply",
    "refresh",
    "new",
    "export",
    "lint",
    "compat",
    "furthest",
    "bisect",
    "build",
    "abi",
    "optests",
    "smoke",
    "verify",
    "report",
    "nightly",
)
_KEYWORDS = {"continue": "continue_"}  # a module cannot be named like a Python keyword


class Commands(click.Group):
    """Imports a command's module when it is asked for, so that ``--help`` loads no libgit2."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        if name not in COMMANDS:
            return None
        return import_module(f"kvsplit_patch.commands.{_KEYWORDS.get(name, name)}").command

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `| head`: click ends quietly
            raise
        except OSError as failure:  # a full disk, a folder that may not be written
            where = f" ({failure.filename})" if failure.filename else ""
            raise PatchError(
                f"The system refused: {failure.strerror or failure}{where}; mend that and try again."
            ) from failure
        except Exception as failure:
            if type(failure).__name__ != "GitError":  # pygit2's, named so that this module need not import it
                raise
            raise PatchError(
                f"git's objects could not be read or written ({failure}); mend that and try again."
            ) from failure


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="llm-kvsplit")
def main():
    """Carry KVSplit's patches to another llama.cpp, build them, and prove that they still mean the same."""


if __name__ == "__main__":
    main()
