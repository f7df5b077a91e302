"""ARPAbet near to letters and to the IPA, for a voice of another language that starts from an English one.

English lacks many of these sounds, so the nearest has to do.
"""

from __future__ import annotations

from collections.abc import Mapping

from tacotron2.text.symbols import ARPABET_PREFIX


def _table(*groups: tuple[str, str]) -> Mapping[str, str]:
    """(symbols, name in ARPAbet) -> symbol -> symbol"""
    return {symbol: ARPABET_PREFIX + name for symbols, name in groups for symbol in symbols}


_CONSONANTS = (
    ("b", "B"), ("d", "D"), ("f", "F"), ("h", "HH"), ("k", "K"), ("l", "L"), ("m", "M"), ("n", "N"), ("p", "P"),
    ("r", "R"), ("s", "S"), ("t", "T"), ("v", "V"), ("z", "Z"),
)  # fmt: skip
OF_LETTERS = _table(
    *_CONSONANTS, ("cq", "K"), ("g", "G"), ("j", "Y"), ("w", "W"), ("x", "K"), ("ñ", "N"), ("ßšś", "S"), ("ç", "S"),
    ("aáàâãåą", "AA1"), ("äæ", "EH1"), ("eéèêëęě", "EH1"), ("iíìîï", "IY1"), ("yý", "IY1"), ("oóòôõ", "AO1"),
    ("öøœ", "ER1"), ("uúùûůü", "UW1"), ("ł", "L"), ("žż", "ZH"),
)  # fmt: skip
OF_IPA = _table(
    *_CONSONANTS, ("gɡɣɢ", "G"), ("jʝʎ", "Y"), ("wɥ", "W"), ("ŋ", "NG"), ("ɲɳɴɱ", "N"), ("ɫɭɬɮ", "L"),
    ("ɹɾʁʀɻɽɺ", "R"), ("xχħɦ", "HH"), ("cq", "K"), ("ɟɖ", "D"), ("ʈ", "T"), ("θ", "TH"), ("ð", "DH"), ("ʃçɕʂ", "SH"),
    ("ʒʑʐ", "ZH"), ("βʋ", "V"), ("ɸ", "F"), ("ʧ", "CH"), ("ʤ", "JH"), ("aɑɒ", "AA1"), ("æ", "AE1"), ("ʌ", "AH1"),
    ("əɐ", "AH0"), ("ɔ", "AO1"), ("oɵ", "OW1"), ("e", "EY1"), ("ɛ", "EH1"), ("ɜɝøœ", "ER1"), ("ɚ", "ER0"),
    ("iy", "IY1"), ("ɪʏ", "IH1"), ("ɨᵻ", "IH0"), ("uʉ", "UW1"), ("ʊɯ", "UH1"),
)  # fmt: skip

# (cleaners of the run, cleaners of the checkpoint) -> symbol -> symbol of the checkpoint
ALIKE: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("language_cleaners", "english_arpabet"): OF_LETTERS,
    ("phonemes", "english_arpabet"): OF_IPA,
}
