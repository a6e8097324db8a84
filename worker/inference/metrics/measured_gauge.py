"""A gauge of what has to be measured first."""

from collections.abc import Iterable

from prometheus_client import Gauge
from prometheus_client.core import Metric


class MeasuredGauge(Gauge):
    """Has no sample before it is set: until then its 0 would be a speed that nothing has."""

    _is_measured = False

    def set(self, value: float) -> None:
        super().set(value)
        self._is_measured = True

    def collect(self) -> Iterable[Metric]:
        return super().collect() if self._is_measured else ()
