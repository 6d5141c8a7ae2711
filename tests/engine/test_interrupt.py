import signal
import threading

import pytest

from seqdsd.engine.interrupt import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish_and_the_second_acts(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        with stop_on_signals() as wish:
            assert not wish.requested
            signal.raise_signal(number)
            assert wish.requested
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_on_signals():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_nothing_changes():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with stop_on_signals() as wish:
            seen.append((wish.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_the_wish_is_answered_at_once(capfd):
    with stop_on_signals("after this evaluation\n"):
        signal.raise_signal(signal.SIGINT)
        assert capfd.readouterr().err == "after this evaluation\n"
