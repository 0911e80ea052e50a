import copy
import pickle
from dataclasses import dataclass

from skxlmr.system.lazy import lazy_property


@dataclass(frozen=True)
class Circle:
    radius: int

    @lazy_property
    def sizes(self):
        """Diameter."""
        return [2 * self.radius]


def test_lazy_property_is_computed_once_per_object():
    circle, other = Circle(3), Circle(4)
    assert circle.sizes == [6]
    assert circle.sizes is circle.sizes
    assert other.sizes == [8]


def test_lazy_property_of_class_is_the_property_with_documentation():
    assert isinstance(Circle.sizes, lazy_property)
    assert Circle.sizes.__doc__ == "Diameter."


def test_lazy_property_of_copy_and_pickle_keeps_value():
    circle = Circle(3)
    assert circle.sizes == [6]
    assert copy.copy(circle).sizes is circle.sizes
    assert pickle.loads(pickle.dumps(circle)).sizes == [6]
