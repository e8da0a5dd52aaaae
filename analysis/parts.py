"""What one topic gives to a report: pictures, tables and sentences, ready to be placed."""

# annotations are not postponed: those that a subclass inherits are read where Table is no name

from dataclasses import dataclass, field

from analysis.style import Picture
from analysis.words import Table


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Empty where there is nothing to show."""

    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)
    """For the executive summary."""
    sentences: list[str] = field(default_factory=list)
    """For the section."""

    @property
    def empty(self) -> bool:
        return not (self.pictures or self.tables)
