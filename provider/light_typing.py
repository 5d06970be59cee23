"""``TYPE_CHECKING`` and ``NamedTuple`` for the modules that every kubelet call imports.

Type checkers see those of the module ``typing``. Importing that and creating its named tuples takes 5 ms. A class of
named tuples has no subclasses, and its module needs ``from __future__ import annotations``: without it, Python 3.14
does not put annotations into the namespace of a class.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    # The C module: the Python module adds an import.
    from _operator import itemgetter

    class _NamedTupleType(type):
        def __new__(cls, name, bases, namespace):
            fields = tuple(namespace.get("__annotations__", ()))
            defaults = {field: namespace[field] for field in fields if field in namespace}
            getters = {field: property(itemgetter(at)) for at, field in enumerate(fields)}
            own = {"_fields": fields, "_field_defaults": defaults, "__match_args__": fields}
            return super().__new__(
                cls, name, bases, {**namespace, **own, "__slots__": (), **getters}
            )

    class NamedTuple(tuple, metaclass=_NamedTupleType):
        """A tuple whose items have the names of the class's annotations."""

        def __new__(cls, *values, **named):
            """Take values in the order of the fields, or by name. Raises TypeError."""
            left = cls._fields[len(values) :]
            given = {**cls._field_defaults, **named}
            if len(values) > len(cls._fields) or not set(named) <= set(left) <= set(given):
                raise TypeError(f"{cls.__name__} needs the values {cls._fields}")
            return tuple.__new__(cls, (*values, *[given[field] for field in left]))

        def __getnewargs__(self):  # for copy and pickle
            return tuple(self)

        def __repr__(self):
            fields = ", ".join(f"{field}={value!r}" for field, value in self._asdict().items())
            return f"{type(self).__name__}({fields})"

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **changes):
            return type(self)(**{**self._asdict(), **changes})
