"""A text as a reader sees it: look-alike signs are one sign, and invisible ones are none.

Only for comparing: what is stored, judged, trained on or published is the text itself, to which `Folded.starts` leads
back.
"""

import re
import unicodedata
from functools import cache
from typing import NamedTuple

import regex

# Signs without ink: zero-width and bidirectional signs, variation selectors, fillers, tags, the blank of Braille.
INVISIBLE = regex.compile(r"[\p{Default_Ignorable_Code_Point}\u2800]+")

# Letters and signs that look like these (Unicode 16, UTS #39, confusables.txt), without those that NFKD resolves.
_LOOKALIKES = {
    "/": "᜵⁁⁄∕╱⟋⧸Ⳇ〳ノ㇓丿𝈺",
    ":": "ː˸։᛬᠃᠉⁚∶ꓽ꞉",
    "<": "˂ᐸᚲ‹❮𝈶",
    ">": "˃ᐳ›❯𖼿𝈷",
    "a": "ɑΑαАаᎪᗅꓮ𐊠𖽀",
    "b": "ƄΒВЬᏏᏴᑲᖯᗷꓐꞴ𐊂𐊡𐌁",
    "c": "СсᏟᴄⲤⲥꓚꮯ𐊢𐌂𐐕𐐽𐔜𑣲",
    "d": "ԁᎠᏧᑯᗞᗪꓒꓓ",
    "e": "ΕЕеҽᎬⴹꓰꬲ𐊆𑢦𑢮",
    "f": "ϜքᖴẝꓝꞘꞙꬵ𐊇𐊥𐔥𑢢𑣂",
    "g": "ƍɡԌցᏀᏳᶃꓖ",
    "h": "ΗНһհᎻᏂᕼⲎꓧ𐋏",
    "i": "ıɩɪιіӏᎥꙇꭵ𑣃",
    "j": "ͿϳЈјᎫᒍꓙꞲ",
    "k": "ΚКᏦᛕⲔꓗ𐔘",
    "l": "ƖǀΙІӀᏞᒪᛁⲒⳐⵏꓡꓲ𐊊𐌉𐌠𐐛𐔦𑢣𑢲𖼖𖼨",
    "m": "ΜϺМᎷᗰᛖⲘꓟ𐊰𐌑",
    "n": "ΝոռⲚꓠ𐔓",
    "o": "ΟοσОоՕօଠഠဝჿዐᴏᴑⲞⲟⵔ〇ꓳꬽ𐊒𐊫𐐄𐐬𐓂𐓪𐔖𑢵𑣈𑣗",
    "p": "ΡρРрᏢᑭⲢⲣꓑ𐊕",
    "q": "ԛգզⵕ",
    "r": "ƦгᎡᏒᖇᴦⲅꓣꭇꭈꮁ𐒴𖼵",
    "s": "ƽЅѕՏᏕᏚꓢꜱꮪ𐊖𐐠𐑈𑣁𖼺",
    "t": "ΤТᎢⲦꓔ𐊗𐊱𐌕𑢼𖼊",
    "u": "ʋυՍսሀᑌᴜꓴꞟꭎꭒ𐓎𐓶𑢸𑣘𖽂",
    "v": "νѴѵᏙᐯᴠⴸꓦꛟꮩ𐔝𑜆𑢠𑣀𖼈",
    "w": "ɯѡԜԝաᎳᏔᴡꓪꮃ𑜊𑜎𑜏𑣯",
    "x": "ΧХхᕁᕽ᙮ᚷⲬⵝꓫꞳ𐊐𐊴𐌗𐌢𐔧𑣬",
    "y": "ɣʏΥγУуҮүყᎩᎽᶌỿⲨꓬꭚ𐊲𑢤𑣜𖽃",
    "z": "ΖᏃᴢꓜꮓ𐋵𑢩𑣄",
}
_BY_SIGN = {sign: plain for plain, signs in _LOOKALIKES.items() for sign in signs}
_PLAIN = re.compile(r"[\n\t -~]*")


class Folded(NamedTuple):
    """A folded text, and where each of its characters stands in the original."""

    text: str
    starts: list[int]  # one more than characters: the last is the original's length

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original that became `text[start:end]`; invisible signs behind it belong to it."""
        return self.starts[start], self.starts[end]


def fold(text: str) -> Folded:
    """The text in lower case, with compatibility forms (NFKD), look-alike letters and decimal digits of all scripts as
    their plain ones, and without accents and invisible signs."""
    if _PLAIN.fullmatch(text):
        return Folded(text.lower(), list(range(len(text) + 1)))
    folded, starts = [], []
    for index, sign in enumerate(text):
        plain = _fold_sign(sign)
        folded.append(plain)
        starts += [index] * len(plain)
    return Folded("".join(folded), [*starts, len(text)])


def pattern_of(text: str, gap: str) -> str:
    """A pattern of the text's words in folded text, with the pattern `gap` between them; 0 passes for o, and 1, i, l
    and | for each other."""
    same = {"o": "[o0]", "i": "[i1l|]", "l": "[i1l|]"}
    words = re.findall(r"[^\W_]+", fold(text).text)
    return gap.join("".join(same.get(letter, re.escape(letter)) for letter in word) for word in words)


@cache
def _fold_sign(sign: str) -> str:
    if sign in "\n\t":
        return sign
    if sign.isspace():
        return "\n" if sign in "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029" else " "
    kind = unicodedata.category(sign)
    if kind[0] == "C" or kind in ("Mn", "Me") or INVISIBLE.match(sign):
        return ""
    if kind[0] == "N":  # ² and ½ are no digits of the number before them
        digit = unicodedata.decimal(sign, None)
        return sign if digit is None else str(digit)
    parts = [sign] if sign in _BY_SIGN else unicodedata.normalize("NFKD", sign)
    return "".join(_BY_SIGN.get(part, part).lower() for part in parts if unicodedata.category(part) not in ("Mn", "Me"))
