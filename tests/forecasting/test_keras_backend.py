"""Start-up of the backend: its log lines are dropped, and the user's choice is kept."""

import os
import subprocess
import sys

from songcast.forecasting import keras_backend


def test_log_lines_of_the_start_are_dropped_unless_it_fails():
    for fails in (False, True):
        check_start(fails)


def check_start(fails):
    log_lines = (
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        "I0000 00:00:1795345308.391371   18134 port.cc:153] oneDNN custom operations are on.\n"
        "2026-11-22 11:01:16.123456: I tensorflow/core/platform/cpu.cc:1] This TensorFlow\n"
        "To enable the following instructions: AVX2 FMA\n"
    )
    script = (
        "import os, sys; from songcast.forecasting.keras_backend import quiet_startup\n"
        "with quiet_startup():\n"
        f"    os.write(2, {log_lines.encode()!r} + b'disk is full\\n')\n"
        "    print('from python', file=sys.stderr)\n"
        f"    if {fails}: raise ImportError\n"
        "print('after', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    passed_on = "disk is full\nfrom python\n"
    if fails:
        assert done.stderr.startswith(f"{log_lines}{passed_on}Traceback")
    else:
        assert done.stderr == passed_on + "after\n"


def test_the_backend_of_the_user_is_kept(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    keras_backend.prepare_backend()
    assert (os.environ["KERAS_BACKEND"], os.environ["TF_CPP_MIN_LOG_LEVEL"]) == ("jax", "3")
