"""Channels become one wave: against the slow, obvious version, in blocks of any size, and what is said about them."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
import soundfile

from lalia.audio.channels import CANCELLING_RATIO, SILENCE_POWER, Mixer
from lalia.audio.reading import CHANNELS_CANCEL, TWO_VOICES, Note, read_audio, read_blocks
from lalia.errors import AudioError

RATE = 8_000


def voice(seconds: float, seed: int, rate: int = RATE) -> np.ndarray:
    """Syllables of a buzz with pauses between: it comes and goes as speech does, (S,) float32."""
    draw = np.random.default_rng(seed)
    time_S = np.arange(round(seconds * rate)) / rate
    pitch = draw.uniform(100, 220)
    buzz_S = sum(np.sin(2 * np.pi * pitch * k * time_S + draw.uniform(0, 6)) / k for k in range(1, 8))
    syllables = draw.uniform(0, 1, round(seconds * 5) + 2) ** 3
    return (0.1 * buzz_S * np.interp(time_S * 5, np.arange(len(syllables)), syllables)).astype(np.float32)


def noise(samples: int, level: float, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def stereo(*channels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.stack(channels, axis=1))


def mixed(audio_SC: np.ndarray, block: int, channel: int | None = None, rate: int = RATE) -> np.ndarray:
    mixer = Mixer(rate, channel)
    return np.concatenate(
        [*(mixer(audio_SC[at : at + block]) for at in range(0, len(audio_SC), block)), mixer.finish()]
    )


def slowly(audio_SC: np.ndarray, rate: int = RATE) -> np.ndarray:
    """The policy sample by sample."""
    channels, out_S = audio_SC.shape[1], []
    decisions: list[int | None] = []
    for start in range(0, len(audio_SC), rate):
        second_SC = audio_SC[start : start + rate].astype(np.float64)
        points = second_SC[:: rate // 4000]
        powers, together = [0.0] * channels, 0.0
        for earlier, later in pairwise(points):
            for channel in range(channels):
                powers[channel] += (later[channel] - earlier[channel]) ** 2 / (len(points) - 1)
            together += sum(later - earlier) ** 2 / (len(points) - 1)
        decided = None
        if decisions and len(second_SC) < rate:
            decided = decisions[-1]
        elif sum(powers) >= SILENCE_POWER and together < CANCELLING_RATIO * sum(powers):
            decided = next(c for c in range(channels) if powers[c] >= max(powers) / 1.5)
        fade = rate // 100
        for at, sample_C in enumerate(second_SC):
            value = sample_C.mean() if decided is None else sample_C[decided]
            if decisions and decisions[-1] != decided and at < fade:
                before = sample_C.mean() if decisions[-1] is None else sample_C[decisions[-1]]
                part = (at + 0.5) / fade
                value = part * value + (1 - part) * before
            out_S.append(value)
        decisions.append(decided)
    return np.array(out_S)


def changing() -> np.ndarray:
    """6.4 s: in phase, out of phase, in phase, out of phase with the second channel louder, silent, and a rest."""
    left_S = voice(6.4, 1)
    gain_S = np.repeat(np.array([1, -1, 0.5, -2, 0, -1, -1], np.float32), RATE)[: len(left_S)]
    left_S[4 * RATE : 5 * RATE] = 0
    return stereo(left_S, left_S * gain_S + noise(len(left_S), 1e-5))


@pytest.mark.parametrize("block", [1 << 20, 131_072, 8_000, 7_919, 333])
def test_the_wave_is_that_of_the_slow_version_in_blocks_of_any_size(block: int) -> None:
    audio_SC = changing()
    found_S = mixed(audio_SC, block)
    np.testing.assert_allclose(found_S, slowly(audio_SC), atol=1e-6)
    assert np.array_equal(found_S, mixed(audio_SC, 1 << 20))
    three_SC = np.concatenate([audio_SC, audio_SC[:, :1] * 0.1], axis=1)
    np.testing.assert_allclose(mixed(three_SC, block), slowly(three_SC), atol=1e-6)


def test_reading_from_any_second_gives_the_same_wave_from_there() -> None:
    audio_SC = changing()
    whole_S = mixed(audio_SC, 5_000)
    for second in range(1, 6):
        assert np.array_equal(mixed(audio_SC[(second - 1) * RATE :], 3_000)[RATE:], whole_S[second * RATE :])


def test_a_joint_stereo_voice_a_dead_channel_and_two_voices_are_averaged_as_ever() -> None:
    one_S, other_S = voice(5.3, 1), voice(5.3, 2)
    alike_SC = stereo(one_S + noise(len(one_S), 1e-3, 1), one_S + noise(len(one_S), 1e-3, 2))
    cases = [
        alike_SC,
        stereo(one_S, one_S),
        stereo(one_S, 0 * one_S),
        stereo(one_S, other_S),
        stereo(one_S, 0.1 * one_S),
        stereo(one_S, np.roll(one_S, RATE // 200)),
        stereo(one_S + np.float32(0.3), one_S - np.float32(0.3)),
        stereo(*[noise(len(one_S), 0.01, seed) for seed in range(64)]),
    ]
    for audio_SC in cases:
        assert np.array_equal(mixed(audio_SC, 9_000), audio_SC.mean(axis=1, dtype=np.float32))


def test_channels_that_cancel_are_read_from_the_louder_one_with_a_note() -> None:
    left_S = voice(4.0, 3)
    for right_S, channel in ((-left_S, 1), (-0.7 * left_S, 1), (-1.5 * left_S, 2)):
        audio_SC, mixer = stereo(left_S, right_S), Mixer(RATE)
        found_S = mixer(audio_SC, last=True)
        assert np.array_equal(found_S, audio_SC[:, channel - 1])
        assert mixer.cancelled.endswith(f"read from channel {channel} where they do")
        assert not mixer.two_voices
    mixer = Mixer(RATE)
    mixer(stereo(left_S, left_S), last=True)
    assert not mixer.cancelled


def test_one_wrong_second_of_a_hundred_is_not_worth_a_line() -> None:
    left_S = np.tile(voice(20.0, 4), 6)
    right_S = left_S.copy()
    right_S[3 * RATE : 4 * RATE] *= -1
    mixer = Mixer(RATE)
    mixer(stereo(left_S, right_S), last=True)
    assert not mixer.cancelled
    right_S[5 * RATE : 9 * RATE] *= -1
    mixer = Mixer(RATE)
    mixer(stereo(left_S, right_S), last=True)
    assert "channel 1" in mixer.cancelled


def test_where_two_seconds_differ_there_is_no_click() -> None:
    tone_S = (0.3 * np.sin(2 * np.pi * 200 * np.arange(6 * RATE + 17) / RATE + 1)).astype(np.float32)
    right_S = tone_S * np.cos(2 * np.pi * np.arange(len(tone_S)) / len(tone_S)).astype(np.float32)
    found_S = mixed(stereo(tone_S, right_S), 1_000)
    assert not np.array_equal(found_S, stereo(tone_S, right_S).mean(axis=1))
    assert np.abs(np.diff(found_S)).max() < 1.2 * np.abs(np.diff(tone_S)).max()


def test_a_requested_channel_is_read_unchanged() -> None:
    audio_SC = changing()
    for channel in (0, 1):
        assert np.array_equal(mixed(audio_SC, 777, channel), audio_SC[:, channel])


def test_mono_passes_through() -> None:
    wave_S = voice(1.3, 5)
    mixer = Mixer(RATE)
    found_S = mixer(wave_S[:, None])
    assert np.shares_memory(found_S, wave_S) and np.array_equal(found_S, wave_S) and not len(mixer.finish())


def test_a_file_shorter_than_a_second_decides_for_itself() -> None:
    left_S = voice(0.4, 6)
    assert np.array_equal(mixed(stereo(left_S, -left_S), 100), left_S)
    assert mixed(stereo(left_S, left_S)[:1], 100).tolist() == left_S[:1].tolist()
    assert not len(mixed(stereo(left_S, left_S)[:0], 100))


def by_turns(own: np.ndarray, other: np.ndarray, cross: float) -> np.ndarray:
    """A call: four seconds each, and of the other voice so much."""
    turn_S = (np.arange(len(own)) // (4 * RATE)) % 2
    own_S, other_S = np.where(turn_S == 0, own, 0), np.where(turn_S == 1, other, 0)
    line = noise(len(own), 1e-3, 8), noise(len(own), 1e-3, 9)
    return stereo(own_S + cross * other_S + line[0], other_S + cross * own_S + line[1]).astype(np.float32)


def test_two_voices_are_known_and_one_voice_on_two_channels_is_not_taken_for_them() -> None:
    one_S, other_S = voice(40.0, 1), voice(40.0, 2)
    room = [np.convolve(one_S, np.eye(1, 400, at)[0] + noise(400, 0.02, at))[: len(one_S)] for at in (5, 200)]
    dropped_S = np.where(np.arange(len(one_S)) < len(one_S) // 2, one_S, 0)
    line_S = noise(len(one_S), 3e-3)
    cases = {
        "a call": (by_turns(one_S, other_S, 0.0), True),
        "a call with cross-talk at -20 dB": (by_turns(one_S, other_S, 0.1), True),
        "both at once": (stereo(one_S, other_S), True),
        "one who hardly speaks": (stereo(one_S, np.where(np.arange(len(one_S)) < 8 * RATE, other_S, 0)), True),
        "one voice": (stereo(one_S, one_S), False),
        "one voice, delayed": (stereo(one_S, np.roll(one_S, 40)), False),
        "one voice, softer": (stereo(one_S, 0.1 * one_S), False),
        "two microphones in a room": (stereo(*room), False),
        "a dead channel": (stereo(one_S, 0 * one_S), False),
        "the noise of a line": (stereo(one_S, line_S), False),
        "half of it dropped": (stereo(one_S, dropped_S), False),
    }
    for name, (audio_SC, expected) in cases.items():
        mixer = Mixer(RATE)
        mixer(audio_SC.astype(np.float32), last=True)
        assert mixer.two_voices == expected, name


def wav(audio_SC: np.ndarray, rate: int = RATE) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, audio_SC, rate, format="WAV", subtype="FLOAT")
    return out.getvalue()


def test_files_are_read_by_the_policy_with_notes() -> None:
    one_S, other_S = voice(12.0, 1, 16_000), voice(12.0, 2, 16_000)
    notes: list[Note] = []
    np.testing.assert_allclose(read_audio(wav(stereo(one_S, -one_S), 16_000), tell=notes.append), one_S, atol=1e-7)
    assert [note.kind for note in notes] == [CHANNELS_CANCEL]
    call = wav(stereo(one_S, other_S), 16_000)
    found_S = read_audio(call, tell=notes.append)
    assert [note.kind for note in notes] == [CHANNELS_CANCEL, TWO_VOICES]
    np.testing.assert_allclose(found_S, (one_S + other_S) / 2, atol=1e-7)
    for channel, expected_S in enumerate((one_S, other_S)):
        assert np.array_equal(read_audio(call, channel=channel, tell=notes.append), np.clip(expected_S, -1, 1))
    assert len(notes) == 2
    with pytest.raises(AudioError, match=r"call.wav: has no channel 3; it has 2"):
        read_audio(call, "call.wav", channel=2)
    with pytest.raises(AudioError, match=r"has no channel 2; it is mono"):
        read_audio(wav(one_S[:, None]), channel=1)


def test_a_part_from_the_middle_of_a_file_is_that_of_the_whole() -> None:
    audio_SC = changing()
    for rate in (RATE, 16_000):
        data = wav(audio_SC, rate)
        whole_S = read_audio(data)
        for start in (1, 2, 3):
            part_S = np.concatenate(list(read_blocks(data, None, start, start + 1)))
            expected_S = whole_S[start * 16_000 : (start + 1) * 16_000][: len(part_S)]
            inside = slice(200, -200) if rate != 16_000 else slice(None)  # a resampler's edges
            np.testing.assert_allclose(part_S[inside], expected_S[inside], atol=0 if rate == 16_000 else 1e-3)
