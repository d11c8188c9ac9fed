"""Generated scenes in groups of images that have the same objects and differ only in their relations."""

from __future__ import annotations

import itertools
import numbers
from dataclasses import dataclass

import numpy as np

from .lexical import word_vector
from .scenes import Scene, SceneSet

OBJECTS = (
    "man", "woman", "child", "dog", "cat", "horse", "bird", "bear", "sheep", "robot",
    "ball", "hat", "guitar", "suitcase", "bench", "bicycle", "boat", "lamp", "chair", "box",
)  # fmt: skip
ATTRIBUTES = ("red", "blue", "green", "yellow", "black", "white", "brown", "pink")
ACTIONS = ("watching", "holding", "touching", "following", "carrying", "facing")
PLACES = ("left of", "right of", "above", "below")
BACKGROUND = ("sky", "grass", "tree", "wall", "road", "water")
CANVAS = (500, 375)

_TEMPLATES = (
    "a {cs} {s} is {act} a {co} {o} , and a {ca} {a} is {place} the {b} .",
    "{place} the {b} there is a {ca} {a} ; the {cs} {s} is {act} the {o} .",
    "the {s} {act} the {co} {o} ; a {a} {place} a {cb} {b} .",
    "a {a} is {place} the {cb} {b} while a {s} is {act} the {o} .",
    "{cs} {s} {act} {co} {o} , {ca} {a} {place} {cb} {b} .",
)


@dataclass(frozen=True)
class SyntheticScenes:
    """Generated images with features.

    Args:
        scenes: N images; a label is the object's noun. The only relation of each says who does what to whom; where
            things are is only in the boxes.
        features: (N, R, D) float32 regions: the normalised sum of the vectors of noun and colour, plus noise.
        attributes: the colour of each region of each image, None for the background.
        group: (N,) int64; the images of a group share objects and colours and differ in their relations.
        story: (N,) int64; within a group, images with the same number have the same subject, action and object.
        place: (N,) int64; within a group, images with the same number have the same spatial relation.
        where: for each image (region, place, region): where, of ``PLACES``, the first is as seen from the second.
    """

    scenes: SceneSet
    features: np.ndarray
    attributes: tuple[tuple[str | None, ...], ...]
    group: np.ndarray
    story: np.ndarray
    place: np.ndarray
    where: tuple[tuple[int, str, int], ...]


def synthetic_scenes(
    n_groups: int = 50,
    stories: int = 2,
    places: int = 2,
    *,
    regions: int = 8,
    width: int = 256,
    captions_per_image: int = 5,
    noise: float = 0.5,
    seed: int = 0,
) -> SyntheticScenes:
    """Draws ``n_groups`` × ``stories`` × ``places`` images, the same ones for the same arguments.

    Each group has four coloured objects, on a background of ``regions`` - 4 further regions. Its images are all
    combinations of a story (which of the first two objects acts on the other, and how) and a place (where the third is
    as seen from the fourth). The objects alone do not tell them apart, and stories or places alone do not tell apart
    images that share one. Captions mention both, in five templates in turn.

    Args:
        n_groups: at least 1.
        stories: stories in each group, 1 to 12; ``places`` likewise, 1 to 4.
        regions: R, at least 4.
        width: D of the features, at least 2.
        captions_per_image: at least 1.
        noise: length of the noise that is added to the unit feature, >= 0.
        seed: of everything drawn, >= 0; word vectors are those of ``word_vector(word, width)``.

    Raises:
        ValueError: naming the argument, what it takes and what it was given.
    """
    limits: tuple[tuple[str, int, int, int | None], ...]
    limits = (("n_groups", n_groups, 1, None), ("stories", stories, 1, 12), ("places", places, 1, 4))
    limits += (("regions", regions, 4, None), ("width", width, 2, None))
    limits += (("captions_per_image", captions_per_image, 1, None), ("seed", seed, 0, None))
    for name, value, low, high in limits:
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or value < low or (high is not None and value > high):
            expected = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
            raise ValueError(f"{name}: expected {expected}, got {value!r}")
    if not isinstance(noise, numbers.Real) or not 0 <= noise < np.inf:
        raise ValueError(f"noise: expected a finite number >= 0, got {noise!r}")
    rng = np.random.default_rng(seed)
    all_stories = list(itertools.product(((0, 1), (1, 0)), ACTIONS))
    scenes, features, attributes, where = [], [], [], []
    for group in range(n_groups):
        nouns = [*rng.choice(OBJECTS, 4, replace=False).tolist(), *rng.choice(BACKGROUND, regions - 4).tolist()]
        colours: list[str | None] = [*rng.choice(ATTRIBUTES, 4).tolist(), *[None] * (regions - 4)]
        clean = np.stack([_feature(noun, colour, width) for noun, colour in zip(nouns, colours, strict=True)])
        drawn_stories = [all_stories[i] for i in rng.choice(len(all_stories), stories, replace=False)]
        drawn_places = rng.choice(PLACES, places, replace=False).tolist()
        for member, (((subject, target), action), place) in enumerate(itertools.product(drawn_stories, drawn_places)):
            words = {"act": action, "place": place}
            for name, region in (("s", subject), ("o", target), ("a", 2), ("b", 3)):
                words |= {name: nouns[region], f"c{name}": str(colours[region])}
            captions = tuple(
                _TEMPLATES[(member + i) % len(_TEMPLATES)].format(**words) for i in range(captions_per_image)
            )
            boxes = _boxes(rng, place, regions)
            relations = ((subject, action, target),)
            scenes.append(Scene(f"synthetic-{group:05d}-{member}", tuple(nouns), boxes, relations, captions))
            shift = rng.standard_normal((regions, width)) * (noise / np.sqrt(width))
            features.append((clean + shift).astype(np.float32))
            attributes.append(tuple(colours))
            where.append((2, place, 3))
    size = stories * places
    return SyntheticScenes(
        scenes=SceneSet(tuple(scenes)),
        features=np.stack(features),
        attributes=tuple(attributes),
        group=np.repeat(np.arange(n_groups), size),
        story=np.tile(np.repeat(np.arange(stories), places), n_groups),
        place=np.tile(np.arange(places), n_groups * stories),
        where=tuple(where),
    )


def _feature(noun: str, colour: str | None, width: int) -> np.ndarray:
    vector = word_vector(noun, width)
    if colour is not None:
        vector = vector + word_vector(colour, width)
    return vector / np.linalg.norm(vector)


def _boxes(rng: np.random.Generator, place: str, regions: int) -> np.ndarray:
    """(R, 4) float32: the third object lies in its place beside the fourth, all others anywhere."""
    wide, high = CANVAS
    centres = rng.uniform(0.15, 0.85, (regions, 2)) * CANVAS
    step = {"left of": (-0.25, 0), "right of": (0.25, 0), "above": (0, -0.25), "below": (0, 0.25)}[place]
    centres[3] = rng.uniform(0.35, 0.65, 2) * CANVAS
    centres[2] = centres[3] + np.array(step) * CANVAS + rng.uniform(-0.05, 0.05, 2) * CANVAS
    half = rng.uniform(0.05, 0.08, (regions, 2)) * CANVAS
    half[4:] *= 3
    boxes = np.concatenate([centres - half, centres + half], axis=1)
    boxes = np.clip(boxes, 0, [wide, high, wide, high]).astype(np.float32)
    boxes.flags.writeable = False
    return boxes
