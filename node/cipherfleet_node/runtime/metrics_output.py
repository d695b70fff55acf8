"""The output `metrics` of a daemon: it opens the page, and tries again while that fails."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from cipherfleet_node.installation import install_command
from cipherfleet_node.outputs.figures import Figures
from cipherfleet_node.outputs.publisher import Sink
from cipherfleet_node.settings.sections import AnswerMetrics, NodeConfig

if TYPE_CHECKING:
    from cipherfleet_node.outputs.metrics import MetricsPage

log = logging.getLogger(__name__)

TRY_EVERY_S = 60.0


class MetricsOutput:
    """The page of one node; without `answer.metrics` it does nothing. It is the daemon's own."""

    def __init__(self, config: NodeConfig) -> None:
        """Load what the page needs, if it is asked for; it opens with the first figures."""
        settings = config.answer.metrics
        self._page = None if settings is None else _load(settings, config)
        self._try_at, self._is_reported = -math.inf, False
        values = settings is not None and settings.values
        self.sinks: list[Sink] = [self._page] if self._page is not None and values else []

    @property
    def is_on(self) -> bool:
        """True if there is a page to show."""
        return self._page is not None

    def show(self, now: float, figures: Figures) -> None:
        """Show *figures* from now on, at monotonic *now*."""
        page = self._page
        if page is None:
            return
        page.figures = figures
        if page.is_open or now < self._try_at:
            return
        self._try_at = now + TRY_EVERY_S
        try:
            page.open()
        except OSError as error:
            if not self._is_reported:
                self._is_reported = True
                text = "answer.metrics: no page at %s: %s; trying again"
                log.warning(text, page.where, error.strerror or type(error).__name__)
        else:
            log.info("answer.metrics: the page is at http://%s/metrics", page.where)

    def close(self) -> None:
        """Close the page."""
        if self._page is not None:
            self._page.close()


def _load(settings: AnswerMetrics, config: NodeConfig) -> MetricsPage | None:
    """Return the page, which is not open yet; None if the extra is not installed."""
    try:
        from cipherfleet_node.outputs.metrics import MetricsPage  # prometheus_client takes memory
    except ModuleNotFoundError:
        log.warning(
            "answer.metrics needs prometheus_client, so there is no page: install it with %s, and "
            "restart the node",
            install_command("metrics"),
        )
        return None
    return MetricsPage(settings, config.fleet, config.node)
