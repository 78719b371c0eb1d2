"""Messages -> prompt; the model's text -> answer, reasoning and tool calls."""

from .prompt import Rendered, render

__all__ = ["Rendered", "render"]
