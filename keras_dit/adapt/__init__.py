"""A trained network changed afterwards: for other data, smaller, or by adapters."""

__all__: list[str] = []
