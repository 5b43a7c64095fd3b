"""Grouping of centers so that no reported verification count covers fewer scans than a minimum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Group = tuple[str, ...]


def group_centers(sizes: Mapping[str, int], min_cell: int) -> tuple[Group, ...]:
    """Group centers so that every group has at least `min_cell` scans.

    A center with enough scans is its own group. All other centers form one group; if that is still too small, the
    smallest center with enough scans joins it.

    Args:
        sizes: center -> number of its verification scans, at least 1.
        min_cell: minimum number of scans of a group, at least 1.

    Returns:
        Groups in the order of their first centers; empty if all scans together are fewer than `min_cell`.
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
    """Map a name to each group: the center's name, or the names of several centers joined as A+B.

    If a single center is itself called A+B, it keeps its name and the group of several centers gets another one.
    """
    named: dict[str, Group] = {}
    for group in sorted(groups, key=len):  # single centers first: they always keep their names
        name = "+".join(group)
        while name in named:
            name += " (together)"
        named[name] = group
    return {name: group for group in groups for name in named if named[name] == group}
