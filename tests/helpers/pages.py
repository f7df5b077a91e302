"""The pages of documentation: their commands, code, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.helpers import REPOSITORY


@dataclass(frozen=True)
class Page:
    """A Markdown file; `name` is relative to the repository."""

    name: str

    @property
    def path(self) -> Path:
        return REPOSITORY / self.name

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """The text without its blocks of code."""
        return re.sub(r"^```.*?^```", "", self.text, flags=re.DOTALL | re.MULTILINE)

    def blocks(self, language: str) -> list[str]:
        return re.findall(rf"```{language}\n(.*?)```", self.text, re.DOTALL)

    def commands(self) -> list[str]:
        """The lines of all bash blocks."""
        return [line for block in self.blocks("bash") for line in block.strip().splitlines()]

    @cached_property
    def anchors(self) -> set[str]:
        """The names that GitHub gives to the headings; headings here are unique within their page."""
        headings = re.findall(r"^#+ (.*)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def links(self) -> Iterator[tuple[Path, str]]:
        """The path and anchor of every link to a file of the repository; the anchor may be empty."""
        for target in re.findall(r"\]\(([^)\s]+)\)", self.prose):
            if not re.match(r"https?://", target):
                file, _, anchor = target.partition("#")
                yield (self.path.parent / file if file else self.path).resolve(), anchor


README = Page("README.md")
DOCS = [Page(f"docs/{path.name}") for path in sorted((REPOSITORY / "docs").glob("*.md"))]
OTHERS = [
    Page(name)
    for name in ("CONTRIBUTING.md", "EXPERIMENTS.md", "CHANGELOG.md", "demo/corpus/README.md", "demo/voice/README.md")
]
PAGES = [README, *DOCS, *OTHERS]
