"""``kvsplit-patch report``"""

import click


@click.command()
@click.option(
    "--format", "form", type=click.Choice(["markdown", "json", "junit"]), default="markdown", show_default=True
)
def command(form):
    """Print the last verify's result."""
    from ..proof import report, verify

    write = {"markdown": report.as_markdown, "json": report.as_json, "junit": report.as_junit}[form]
    click.echo(write(verify.last()).rstrip("\n"))
