"""Messages -> prompt; the model's text -> answer, reasoning and tool calls."""

from .messages import attachments
from .prompt import Rendered, render

__all__ = ["Rendered", "attachments", "render"]
