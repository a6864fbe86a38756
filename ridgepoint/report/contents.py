"""How a keyboard gets around a page: a link that skips to the content, and one to each section."""

import re

__all__ = ["CONTENT", "with_contents"]

CONTENT = "content"
"""The id of what the first link skips to."""
_HEADING = re.compile(r"<h2>([^<]+)</h2>")


def with_contents(body: str) -> str:
    """The markup with an id at each section's heading, behind the links to them; data is escaped and cannot make one."""
    links = "".join(f'<li><a href="#{_place(title)}">{title}</a></li>' for title in _HEADING.findall(body))
    placed = _HEADING.sub(lambda found: f'<h2 id="{_place(found[1])}">{found[1]}</h2>', body)
    return (
        f'<a class="skip" href="#{CONTENT}">Skip to content</a>\n'
        f'<nav aria-label="On this page"><ul>{links}</ul></nav>\n<main id="{CONTENT}" tabindex="-1">\n{placed}\n</main>'
    )


def _place(title: str) -> str:
    return re.sub(r"[^a-z]+", "-", title.lower()).strip("-")
