"""Read addresses of the web, e-mail addresses, file names and paths, and versions of software."""

import re

from tacotron2.text.acronyms import AS_LETTERS, SHORT_WORDS, is_pronounceable
from tacotron2.text.codes import read_identifier
from tacotron2.text.patterns import Match, Rules, rule
from tacotron2.text.spelling import cardinal, minutes

MARKS = {
    ".": "dot", "/": "slash", "\\": "backslash", ":": "colon", "-": "dash", "_": "underscore", "~": "tilde",
    "?": "question mark", "=": "equals", "&": "and", "%": "percent", "#": "hash", "+": "plus", "@": "at",
    "*": "star", "$": "dollar", ",": "comma", ";": "semicolon", "!": "exclamation mark",
}  # fmt: skip
PIECES = {
    "usr": "user", "src": "source", "tmp": "temp", "co": "co", "bashrc": "bash r c", "vimrc": "vim r c", "exe": "e x e",
    "docx": "doc x", "jpeg": "j peg", "json": "jason", "github": "github", "etc": "e t c", "docs": "docs",
    "localhost": "localhost", "gitignore": "git ignore", "readme": "readme",
}  # fmt: skip
DOMAINS = "com|org|net|edu|gov|mil|info|io|ai|dev|app|co|uk|de|fr|eu|ch|nl|jp|ca|au|tv"
EXTENSIONS = (
    "bat|bin|bmp|cfg|conf|cpp|css|csv|doc|docx|epub|exe|flac|gif|gz|html?|ini|ipynb|iso|java|jpe?g|js|json|log|md"
    "|mov|mp3|mp4|odt|ogg|onnx|pdf|php|png|pptx?|pt|py|rar|rs|rtf|sh|sql|svg|tar|tex|tiff?|toml|ts|tsv|txt|wav|webp"
    "|xlsx?|xml|ya?ml|zip"
)
PRODUCTS = (
    "[Vv]ersion|[Rr]elease|Android|Bluetooth|CUDA|Debian|Django|HTTP|Java|Linux|macOS|Node|PHP|Perl|PostgreSQL|PyTorch"
    "|Python|Ruby|Rust|TLS|Ubuntu|Windows|iOS|kernel"
)

START = r"(?<![\w@./\\:+~-])"  # lookbehind: so that a long run of letters is tried once
REST = r"[^\s\"<>{}|^`\[\]]*+"
_PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|.")


def read_piece(piece: str) -> str:
    """Read a part of an address: "docs" as a word, "html" letter by letter, "8080" as an identifier."""
    if piece.isdecimal():
        return read_identifier(piece)
    if piece in MARKS:
        return MARKS[piece]
    word = piece.lower()
    if word in PIECES:
        return PIECES[word]
    if len(word) < 3:
        spelled = word.upper() not in SHORT_WORDS
    else:
        spelled = word.upper() in AS_LETTERS or not re.search("[aeiouy]", word)
        spelled = spelled or (len(word) < 5 and not is_pronounceable(word))
    return " ".join(word) if spelled else word


def read_address(match: Match) -> str:
    """Read an address mark by mark: "example.org/docs" -> "example dot org slash docs".

    The scheme "https://" is not read: it says nothing to a listener. Punctuation after the address is not a part of it.
    """
    address = match[0].rstrip(".,;:!?'()[]")
    tail = match[0][len(address) :]
    address = re.sub(r"\A(?:https?|ftp|file)://", "", address, flags=re.I)
    if address.endswith("/") and address.count("/") == 1 and "." in address:
        address = address[:-1]  # "example.org/" is said as "example.org"
    return " ".join(read_piece(piece) for piece in _PIECE.findall(address)) + tail


def read_timestamp(match: Match) -> str:
    """Leave date and time of "2024-05-01T10:30:00Z" to later rules, without the seconds."""
    return f"{match[1]} at {match[2]}{' UTC' if match[0][-1] == 'Z' else ''}"


def read_parts(number: str) -> str:
    """Read a version: "3.11" -> "three point eleven", "22.04" -> "twenty-two point oh four"."""
    return " point ".join(
        minutes(part) if len(part) == 2 and part[0] == "0" and part != "00" else cardinal(part)
        for part in number.split(".")
    )


WEB_RULES = Rules(
    rule(r"\b([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}:[0-9]{2})(?::[0-9]{2}(?:\.[0-9]{1,9})?)?Z?\b", read_timestamp),
    rule(r"\bmailto:(?=[\w.+-])", ""),
    rule(r"\bIPv(?=[46]\b)", "I P v "),
    rule(r"\b(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}\b", read_address),  # of a network interface
    rule(rf"{START}[\w.+-]{{1,64}}@(?:[\w-]{{1,63}}\.){{1,8}}[A-Za-z]{{2,24}}\b", read_address),
    rule(rf"\b(?:https?|ftp|file)://{REST}", read_address, re.I),
    rule(rf"{START}www\.(?=\w){REST}", read_address, re.I),
    rule(rf"{START}localhost(?::[0-9]{{1,5}})(?:/{REST})?", read_address),
    rule(
        rf"{START}(?:[A-Za-z0-9-]{{2,63}}\.){{1,5}}(?:{DOMAINS})(?![\w-])(?::[0-9]{{1,5}}\b)?(?:[/?#]{REST})?",
        read_address,
    ),
    rule(
        rf"{START}(?:[0-9]{{1,3}}\.){{3}}[0-9]{{1,3}}(?![\w.]{{0,20}}[0-9])(?::[0-9]{{1,5}}\b)?(?:/{REST})?",
        read_address,
    ),
    rule(rf"{START}[A-Z]:\\{REST}(?: [A-Z(][^\s\\\"<>|]{{0,40}}\\{REST})*+", read_address),
    rule(rf"{START}(?:~|\.{{1,2}})/[\w.+/-]*+", read_address),
    rule(rf"{START}(?<!<)/(?=[\w.+-]{{3}}|[\w.+-]{{1,2}}/)[\w.+/-]*+", read_address),
    rule(rf"{START}(?:[\w.-]{{1,64}}/){{1,20}}[\w.-]{{1,64}}\.(?:{EXTENSIONS})\b(?!/)(?:[?#]{REST})?", read_address),
    rule(rf"{START}\w[\w-]{{0,63}}(?:\.[\w-]{{1,16}}){{0,2}}\.(?:{EXTENSIONS})\b(?![/-])(?:[?#]{REST})?", read_address),
    rule(rf"{START}(?<!')\.(?:{EXTENSIONS}|bashrc|vimrc|gitignore)\b", read_address),
    rule(
        rf"\b({PRODUCTS})([ /])v?([0-9]{{1,5}}(?:\.[0-9]{{1,5}}){{1,4}})(?![\w.]{{0,20}}[0-9])",
        lambda match: f"{match[1]} {read_parts(match[3])}",
    ),
    rule(
        rf"{START}v([0-9]{{1,5}}(?:\.[0-9]{{1,5}}){{0,4}})(?![\w.]{{0,20}}[0-9])",
        lambda match: f"version {read_parts(match[1])}",
    ),
    rule(r"(?<![\w&])#(?=[A-Za-z])", "hashtag "),
)


def expand_web(text: str) -> str:
    """Replace addresses, file names and versions of software by words."""
    return WEB_RULES.apply(text)
