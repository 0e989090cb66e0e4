"""A script that knows nothing of ablate: a small forest of trees learns to tell two rings apart. Arguments in, lines out."""

import argparse
import math
import random


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trees", type=int, required=True)
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--points", type=int, required=True, help="seen by each tree")
    parser.add_argument("--features", choices=["plain", "squared"], required=True)
    parser.add_argument("--title", default="", help="printed, nothing else")
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()

    print(f"{given.title}: {given.trees} trees of depth {given.depth}", flush=True)
    draw = random.Random(given.seed)
    training = [rings(draw, given.features) for _ in range(1500)]
    test = [rings(random.Random(10_000 + n), given.features) for n in range(500)]
    votes = [0] * len(test)
    for number in range(1, given.trees + 1):
        tree = grow([draw.choice(training) for _ in range(given.points)], given.depth, draw)
        votes = [vote + (1 if answer(tree, point) else -1) for vote, (point, _) in zip(votes, test, strict=True)]
        hits = sum((vote > 0) == outer for vote, (_, outer) in zip(votes, test, strict=True))
        print(f"tree {number}: accuracy {hits / len(test):.4f}", flush=True)


def rings(draw: random.Random, features: str) -> tuple[list[float], bool]:
    """A point and whether it belongs to the outer ring."""
    outer = draw.random() < 0.5
    angle, radius = draw.uniform(0, 2 * math.pi), draw.gauss(1.6 if outer else 1.0, 0.3)
    x, y = radius * math.cos(angle), radius * math.sin(angle)
    return ([x, y] if features == "plain" else [x * x, y * y]), outer


Tree = bool | tuple[int, float, "Tree", "Tree"]
"""An answer, or: feature, threshold, the tree below it, the tree from it on."""


def grow(points: list[tuple[list[float], bool]], depth: int, draw: random.Random) -> Tree:
    """The best of ten splits drawn at random, again and again."""
    outer = sum(is_outer for _, is_outer in points)
    if depth == 0 or outer in (0, len(points)):
        return 2 * outer > len(points)
    candidates = [(feature, draw.choice(points)[0][feature]) for feature in (draw.randrange(2) for _ in range(10))]
    feature, threshold = max(candidates, key=lambda split: purity(points, *split))
    below = [point for point in points if point[0][feature] < threshold]
    above = [point for point in points if point[0][feature] >= threshold]
    if not below or not above:
        return 2 * outer > len(points)
    return feature, threshold, grow(below, depth - 1, draw), grow(above, depth - 1, draw)


def purity(points: list[tuple[list[float], bool]], feature: int, threshold: float) -> int:
    """Points that a split would tell right."""
    below = [is_outer for point, is_outer in points if point[feature] < threshold]
    above = [is_outer for point, is_outer in points if point[feature] >= threshold]
    return sum(max(sum(side), len(side) - sum(side)) for side in (below, above))


def answer(tree: Tree, point: list[float]) -> bool:
    while not isinstance(tree, bool):
        feature, threshold, below, above = tree
        tree = below if point[feature] < threshold else above
    return tree


if __name__ == "__main__":
    main()
