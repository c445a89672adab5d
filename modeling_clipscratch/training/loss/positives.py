"""Find the positives of a batch: rows that share an image, a class or a caption, directly or through other rows."""

import torch


def connected_groups(links: torch.Tensor) -> torch.Tensor:
    """Number the connected components, (N,), of rows of (N, K) links: rows that share a number are linked.

    Source: Shiloach and Vishkin 1982: labels shrink to the least of a row's neighbours, roots are hooked and pointers
        jump, which takes O(log N) rounds. A GPU runs all of them, so that the host need not wait to see the last.

    >>> connected_groups(torch.tensor([[7, 1], [2, 2], [1, 3], [3, 9]]))
    tensor([0, 1, 0, 0])
    """
    count, width = links.shape
    if width == 1:
        return links[:, 0]
    ordered, place = links.flatten().sort()
    number = torch.empty_like(place)
    number[place] = torch.cat([torch.zeros_like(ordered[:1]), (ordered[1:] != ordered[:-1]).long().cumsum(0)])
    group = torch.arange(count, device=links.device)
    for _ in range(2 * count.bit_length() + 2):
        least = torch.full_like(ordered, count).scatter_reduce(0, number, group.repeat_interleave(width), "amin")
        smaller = least[number].view(count, width).amin(1)
        root = torch.arange(count, device=links.device).scatter_reduce(0, group, smaller, "amin")
        smaller = torch.minimum(smaller, root[group])
        smaller = smaller[smaller]
        if links.device.type == "cpu" and torch.equal(smaller, group):
            break
        group = smaller
    return group
