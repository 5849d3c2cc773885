"""Figures and result sentences of single lessons, one file a lesson.

A figure takes the numbers that a cell of the lesson computed and returns a `Drawing` with its
sentence. A function whose name ends in `_sentence` returns what the numbers say, in words: so no
sentence in a lesson is wrong on a machine where the numbers come out otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable


def say(*sentences: str) -> None:
    """Show sentences below a cell of a notebook, as one paragraph of text.

    Args:
        sentences: computed from the results of the cell.
    """
    # Only a notebook needs IPython.
    from IPython.display import Markdown, display

    display(Markdown(" ".join(sentences)))


def listed(names: Iterable[str], none: str = "none") -> str:
    """Return names as a list in words.

    >>> listed(["a", "b", "c"]), listed(["a"]), listed([])
    ('a, b and c', 'a', 'none')

    Args:
        names: the names, in order.
        none: what to say of no names.

    Returns:
        The names with commas and "and".
    """
    # None and one need no "and".
    names = list(names)
    if not names:
        return none
    if len(names) == 1:
        return names[0]
    # The last name stands behind "and".
    return f"{', '.join(names[:-1])} and {names[-1]}"


def counted(number: int, noun: str) -> str:
    """Return a number of things in words.

    >>> counted(1, "search", ), counted(3, "octave"), counted(2, "search")
    ('1 search', '3 octaves', '2 searches')

    Args:
        number: how many there are.
        noun: noun in the singular.

    Returns:
        The number with its noun, in the plural where it is not 1.
    """
    # One thing has no ending.
    if number == 1:
        return f"1 {noun}"
    # Words that end in a hiss take "es".
    ending = "es" if noun.endswith(("s", "ch", "sh", "x")) else "s"
    return f"{number:,} {noun}{ending}"
