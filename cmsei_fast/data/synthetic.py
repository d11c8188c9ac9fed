"""Generated scenes whose images come in groups: the same objects, told apart by their relations alone."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from .lexical import word_vector
from .scenes import Scene, SceneSet

OBJECTS = (
    "man", "woman", "child", "dog", "cat", "horse", "bird", "bear", "sheep", "robot",
    "ball", "hat", "guitar", "umbrella", "bench", "bicycle", "boat", "lamp", "chair", "box",
)  # fmt: skip
ATTRIBUTES = ("red", "blue", "green", "yellow", "black", "white", "brown", "orange")
ACTIONS = ("watching", "holding", "touching", "following", "carrying", "facing")
PLACES = ("left of", "right of", "above", "below")
BACKGROUND = ("sky", "grass", "tree", "wall", "road", "water")
CANVAS = (500, 375)

_TEMPLATES = (
    "{place} the {n2} , a {a0} {n0} is {act} a {a1} {n1} .",
    "the {n0} {act} the {n1} is {place} a {a2} {n2} .",
    "there is a {n0} {place} the {n2} , {act} a {a1} {n1} .",
    "a {a2} {n2} , and a {n0} {place} it that is {act} the {n1} .",
    "{a0} {n0} {act} {a1} {n1} , {place} a {n2} .",
)


@dataclass(frozen=True)
class SyntheticScenes:
    """Generated images with features.

    Args:
        scenes: N images; a label is the object's noun.
        features: (N, R, D) float32 regions: the unit sum of the vectors of noun and colour, plus noise.
        attributes: the colour of each region of each image, None for the background.
        group: (N,) int64; the images of a group share objects and colours and differ in their relations.
    """

    scenes: SceneSet
    features: np.ndarray
    attributes: tuple[tuple[str | None, ...], ...]
    group: np.ndarray


def synthetic_scenes(
    n_groups: int = 50,
    group_size: int = 4,
    *,
    regions: int = 8,
    width: int = 256,
    captions_per_image: int = 5,
    noise: float = 0.5,
    seed: int = 0,
) -> SyntheticScenes:
    """Draws ``n_groups`` × ``group_size`` images, the same ones for the same arguments.

    Each group has three objects with colours on a background of ``regions`` - 3 further regions. Each of its images has
    one action between two of the objects and one place of the subject beside the third, a combination no other image
    of the group has. Boxes agree with the places. Captions follow five templates in turn.

    Args:
        n_groups: at least 1.
        group_size: images a group, 1 to 144.
        regions: R, at least 3.
        width: D of the features, at least 2.
        captions_per_image: at least 1.
        noise: length of the noise that is added to the unit feature, >= 0.
        seed: of everything drawn; word vectors are those of ``word_vector(word, width)``.
    """
    limits: tuple[tuple[str, int, int, int | None], ...]
    limits = (("n_groups", n_groups, 1, None), ("group_size", group_size, 1, 144), ("regions", regions, 3, None))
    limits += (("width", width, 2, None), ("captions_per_image", captions_per_image, 1, None))
    for name, value, low, high in limits:
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            expected = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
            raise ValueError(f"{name}: expected {expected}, got {value!r}")
    if not noise >= 0 or not np.isfinite(noise):
        raise ValueError(f"noise: expected a finite number >= 0, got {noise!r}")
    rng = np.random.default_rng(seed)
    stories = list(itertools.product(itertools.permutations(range(3)), ACTIONS, PLACES))
    scenes, features, attributes = [], [], []
    for group in range(n_groups):
        nouns = [*rng.choice(OBJECTS, 3, replace=False).tolist(), *rng.choice(BACKGROUND, regions - 3).tolist()]
        colours: list[str | None] = [*rng.choice(ATTRIBUTES, 3).tolist(), *[None] * (regions - 3)]
        clean = np.stack([_feature(noun, colour, width) for noun, colour in zip(nouns, colours, strict=True)])
        for member, index in enumerate(rng.choice(len(stories), group_size, replace=False)):
            roles, action, place = stories[index]  # subject, object, the third
            relations = ((roles[0], action, roles[1]), (roles[0], place, roles[2]))
            words = {f"n{i}": nouns[role] for i, role in enumerate(roles)} | {"act": action, "place": place}
            words |= {f"a{i}": str(colours[role]) for i, role in enumerate(roles)}
            captions = tuple(
                _TEMPLATES[(member + i) % len(_TEMPLATES)].format(**words) for i in range(captions_per_image)
            )
            boxes = _boxes(rng, roles, place, regions)
            scenes.append(Scene(f"synthetic-{group:05d}-{member}", tuple(nouns), boxes, relations, captions))
            shift = rng.standard_normal((regions, width)) * (noise / np.sqrt(width))
            features.append((clean + shift).astype(np.float32))
            attributes.append(tuple(colours))
    of_group = np.repeat(np.arange(n_groups), group_size)
    return SyntheticScenes(SceneSet(tuple(scenes)), np.stack(features), tuple(attributes), of_group)


def _feature(noun: str, colour: str | None, width: int) -> np.ndarray:
    vector = word_vector(noun, width)
    if colour is not None:
        vector = vector + word_vector(colour, width)
    return vector / np.linalg.norm(vector)


def _boxes(rng: np.random.Generator, roles: tuple[int, ...], place: str, regions: int) -> np.ndarray:
    """(R, 4) float32: the subject lies in its place beside the third, the object next to the subject."""
    wide, high = CANVAS
    third = np.array([rng.uniform(0.4, 0.6) * wide, rng.uniform(0.4, 0.6) * high])
    step = {"left of": (-0.3, 0), "right of": (0.3, 0), "above": (0, -0.3), "below": (0, 0.3)}[place]
    subject = third + np.array(step) * CANVAS + rng.uniform(-0.03, 0.03, 2) * CANVAS
    beside = subject + rng.uniform(-0.08, 0.08, 2) * CANVAS
    centres = np.empty((regions, 2))
    centres[list(roles)] = subject, beside, third
    centres[3:] = rng.uniform(0.25, 0.75, (regions - 3, 2)) * CANVAS
    half = rng.uniform(0.05, 0.08, (regions, 2)) * CANVAS
    half[3:] *= 3
    boxes = np.concatenate([centres - half, centres + half], axis=1)
    boxes = np.clip(boxes, 0, [wide, high, wide, high]).astype(np.float32)
    boxes.flags.writeable = False
    return boxes
