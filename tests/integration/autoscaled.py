"""The test bed under the name that tests use."""

from cluster.testing.bed import Bed as Autoscaled
from cluster.testing.bed import bed as autoscaled

__all__ = ["Autoscaled", "autoscaled"]
