"""Progress is silent when short, one rewritten line on a terminal, and a line now and then in a log."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from harness import progress
from harness.progress import LOG_EVERY_S, QUIET_S, Stage, spell_time


class Stream(io.StringIO):
    def __init__(self, live):
        super().__init__()
        self.live = live

    def isatty(self):
        return self.live


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(at=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.at))
    return now


def play(clock, stream, moments, total=100):
    """Calls a stage with `done` at each of the seconds; returns what each call printed."""
    stage, printed = Stage("features", "images", stream), []
    began = clock.at
    for second, done in moments:
        clock.at = began + second
        stage(done, total)
        printed.append(stream.getvalue())
        stream.seek(0)
        stream.truncate()
    return stage, printed


@pytest.mark.parametrize("live", [True, False])
def test_quiet_under_two_seconds(clock, live):
    assert QUIET_S == 2.0
    _, printed = play(clock, Stream(live), [(0, 0), (0.5, 20), (1.0, 50), (1.99, 99)])
    assert printed == [""] * 4


def test_a_terminal_shows_one_line_with_the_time_left(clock):
    _, printed = play(clock, Stream(live=True), [(0, 0), (2.0, 10), (2.05, 11), (20, 25)])
    assert printed[0] == printed[2] == ""  # not ten times a second
    for text in (printed[1], printed[3]):
        assert text.startswith("\r\x1b[2Kfeatures ")
        assert "\n" not in text
    assert "10/100 images" in printed[1]
    assert printed[1].endswith("10%  ETA 0:18")
    assert printed[3].endswith("25%  ETA 1:00")


def test_elsewhere_a_whole_line_now_and_then(clock):
    moments = [(0, 0), (5, 10), (LOG_EVERY_S, 25), (LOG_EVERY_S + 5, 30), (2 * LOG_EVERY_S, 50)]
    _, printed = play(clock, Stream(live=False), moments)
    assert [bool(text) for text in printed] == [False, False, True, False, True]
    for text in printed:
        assert "\r" not in text
        assert "\x1b" not in text
    assert printed[2].startswith("features ")
    assert printed[2].endswith("25%  ETA 0:45\n")
    assert printed[4].endswith("50%  ETA 0:30\n")


def test_resumed_work_does_not_count_for_the_rate(clock):
    _, printed = play(clock, Stream(live=True), [(0, 50), (20, 75)])
    assert printed[1].endswith("75%  ETA 0:20")


def test_without_fresh_work_the_time_left_is_unknown(clock):
    _, printed = play(clock, Stream(live=True), [(0, 50), (20, 50)])
    assert printed[1].endswith("50%  ETA ?")


def test_the_end_is_told_by_close_alone(clock):
    stream = Stream(live=False)
    stage, printed = play(clock, stream, [(0, 0), (83.4, 100)])
    assert printed == ["", ""]
    assert stage.close("100 images") == pytest.approx(83.4)
    assert stream.getvalue() == "features               done in 1:23  (100 images)\n"


def test_close_replaces_the_line_on_a_terminal(clock):
    stream = Stream(live=True)
    stage, _ = play(clock, stream, [(0, 0), (4, 50)])
    stage.close()
    assert stream.getvalue() == "\r\x1b[2Kfeatures               done in 0:04\n"


def test_an_empty_stage_prints_its_end(clock):
    stream = Stream(live=False)
    stage, printed = play(clock, stream, [(3, 0)], total=0)
    assert printed == [""]
    assert stage.close() == pytest.approx(3)
    assert stream.getvalue().endswith("done in 0:03\n")


def test_the_error_stream_is_the_default(clock, capsys):
    Stage("features").close()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("features")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (60, "1:00"), (83.4, "1:23"), (5000, "83:20")]
)
def test_spell_time(seconds, text):
    assert spell_time(seconds) == text
