"""The tags that enclose data in a prompt, and how data is kept from closing them.

Data stays whole: where it holds such a tag, the tag's name gets an underscore, `</response>` → `</_response>`, so that
it is another tag. As in mboxrd files, one that is written so already gets one more, so nothing is ambiguous.
"""

import re
from collections.abc import Collection

from stages.core.folding import fold, pattern_of


def defuse(text: str, names: Collection[str]) -> str:
    """The text with an underscore before the name of each of these tags, in any spelling: letter case, look-alike and
    invisible signs, blanks, attributes; of a closing tag its beginning is enough."""
    folded = fold(text)
    if "<" not in folded.text:
        return text
    starts = [folded.starts[match.end()] for match in _pattern(frozenset(names)).finditer(folded.text)]
    for start in reversed(starts):
        text = f"{text[:start]}_{text[start:]}"
    return text


def _pattern(names: frozenset[str]) -> re.Pattern[str]:
    """What stands before a tag's name: `<`, and in a closing tag a slash."""
    name = rf"_*(?:{'|'.join(pattern_of(name, '') for name in sorted(names))})(?!\w|-\w)"
    closing, opening = rf"[\s\\]*/[\s/\\]*(?={name})", rf"[\s\\]*(?={name}(?:\s[^<>]*|\s*/\s*)?>)"
    return re.compile(rf"<(?:{closing}|{opening})")
