"""The signals that end a program in order: SIGINT (Ctrl-C), and SIGTERM from a service manager."""

from __future__ import annotations

import signal

END_SIGNALS = (signal.SIGINT, signal.SIGTERM)
