"""Confusions and groups of clips, counted by hand."""

from __future__ import annotations

from lalia.scoring.rates import Confusion, by_group, confusions, length_band, noise_band, repeated_confusions, score

SAID = ["the red cat", "a red hat", "so"]
HEARD = ["the rad cat", "a rad hat now", ""]


def test_confusions() -> None:
    words = confusions(SAID, HEARD, "word")
    assert words == [Confusion("red", "rad", 2), Confusion("", "now", 1), Confusion("so", "", 1)]
    assert confusions(SAID, HEARD, "word", 1) == words[:1]
    assert confusions(SAID, HEARD, "character")[0] == Confusion("e", "a", 2)
    assert confusions(SAID, SAID, "character") == []


def test_what_occurs_once_is_told_only_among_few() -> None:
    once = [Confusion(letter, "x", 1) for letter in "abcd"]
    assert repeated_confusions(once[:3]) == once[:3] and repeated_confusions(once) == []
    assert repeated_confusions([Confusion("e", "a", 2), *once]) == [Confusion("e", "a", 2)]


def test_groups_add_up() -> None:
    found = by_group(SAID, HEARD, ["anna", "anna", "ben"])
    assert list(found) == ["anna", "ben"] and found["anna"].clips == 2
    assert found["anna"].wer.errors == 3 and found["ben"].wer.deletions == 1
    whole = score(SAID, HEARD)
    assert found["anna"].wer + found["ben"].wer == whole.wer and found["anna"].cer + found["ben"].cer == whole.cer


def test_length_bands() -> None:
    lengths = [length_band(seconds) for seconds in (0.5, 2.0, 4.9, 5.0, 19.0, 20.0, 3600.0)]
    assert lengths == ["under 2 s", "2 to 5 s", "2 to 5 s", "5 to 10 s", "10 to 20 s", "over 20 s", "over 20 s"]


def test_noise_bands() -> None:
    assert [noise_band(snr_db) for snr_db in (-10.0, 10.0, 39.9, 60.0, float("nan"))] == [
        "under 10 dB",
        "10 to 20 dB",
        "30 to 40 dB",
        "over 40 dB",
        "unknown",
    ]
