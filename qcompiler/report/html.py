"""report.html."""
from typing import Any


def render_html(report: dict[str, Any]) -> str:
    """A page."""
    return "<html></html>"
