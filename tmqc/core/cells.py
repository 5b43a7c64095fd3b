"""Which centers' verification counts are reported together, so that none is of fewer scans than allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Group = tuple[str, ...]


def group_centers(sizes: Mapping[str, int], min_cell: int) -> tuple[Group, ...]:
    """Join small centers until every group has `min_cell` scans.

    A center with enough scans stands alone. The others stand together; are they still too few, the smallest of
    those with enough joins them.

    Args:
        sizes: center -> its verification scans, from 1.
        min_cell: from 1.

    Returns:
        Groups in the order of their first centers; none at all if all scans together are too few.
    """
    small = [center for center, n in sizes.items() if n < min_cell]
    large = [center for center in sizes if center not in small]
    if small and sum(sizes[center] for center in small) < min_cell:
        if not large:
            return ()
        smallest = min(large, key=lambda center: sizes[center])
        large.remove(smallest)
        small.append(smallest)
    joined = tuple(center for center in sizes if center in small)
    groups = [(center,) for center in large] + ([joined] if joined else [])
    order = list(sizes)
    return tuple(sorted(groups, key=lambda group: order.index(group[0])))


def name_groups(groups: Sequence[Group]) -> dict[str, Group]:
    """Name -> group: of a center alone its own name, of centers together all of theirs, as A+B.

    A center may itself be called A+B. It keeps its name, and the centers together get another one.
    """
    named: dict[str, Group] = {}
    for group in sorted(groups, key=len):  # those that stand alone have their names for certain
        name = "+".join(group)
        while name in named:
            name += " (together)"
        named[name] = group
    return {name: group for group in groups for name in named if named[name] == group}
