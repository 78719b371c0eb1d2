"""``llm kvsplit plot``: the pictures of a bench, and its page."""

from __future__ import annotations

from pathlib import Path

import click

from ..bench import results as result_files
from ..errors import KvsplitError


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--html", is_flag=True, help="Instead, one HTML page with tables and interactive charts.")
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(["png", "svg"]), help="Only this (default: both)."
)
@click.option("--beside", type=click.Path(path_type=Path), help="Other results, whose speeds are drawn faintly behind.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the files (default: beside the results).")
def command(results: Path, html: bool, formats: tuple[str, ...], beside: Path | None, out: Path | None) -> None:
    """Draw the RESULTS of 'llm kvsplit bench': its folder, or the results.json in it."""
    file = _file(results)
    measured = result_files.read(file)
    behind = result_files.read(_file(beside)) if beside else None
    folder = out or file.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KvsplitError(f"{folder} cannot be made ({error.strerror}): choose another with --out.") from error
    if html:
        from ..plots.page import page

        result_files.write_whole(folder / "results.html", page(measured))
        click.echo(folder / "results.html")
        return
    from ..plots import style

    style.load()
    from ..plots import DRAWN_BESIDE, FIGURES

    for name, draw in FIGURES.items():
        figure = draw(measured, behind) if name in DRAWN_BESIDE else draw(measured)
        if figure is None:
            click.echo(f"Not drawn: {name}, of which these results have nothing.", err=True)
            continue
        for kind in formats or ("png", "svg"):
            style.save(figure, folder / f"{name}.{kind}")
            click.echo(folder / f"{name}.{kind}")


def _file(results: Path) -> Path:
    return results / "results.json" if results.is_dir() else results
