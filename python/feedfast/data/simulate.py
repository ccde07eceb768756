"""A simulated feed whose true probabilities are known.

How it works, in the order of the code:

1. World. Members, posts and hashtags live in a taste space of a few dimensions, in clusters. Each
post has an author;
   some posts are reshares, whose actor passes on the post of a root actor. Authors differ in
   charisma, posts in quality and topic.
2. Requests. A few of the members open the feed, some often. A request gathers a pool of recent
posts, from a cluster
   the viewer likes and from another one. In a random session every slot shows a uniformly random
   item of the pool; else a model chooses (see `_show`).
3. Answers. For viewer v, item i at slot k and objective o:

       P(label = 1) = examine_o(k) * sigmoid(bias_o + strength_o * appeal + activeness_o *
       activeness_v + context) appeal = taste_v . z_i + history_v . z_i + charisma(actor) +
       charisma(root actor) + quality_i

   history_v is a decaying mean of the actors the viewer engaged with in strictly earlier requests,
   so what happened before changes what happens next. Labels are independent given these
   probabilities.

Features are counts that depend noisily on the quantities above, some of them missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feedfast.data.dataset import ANY_ENGAGEMENT, Dataset
from feedfast.data.keys import KeyBags, expand_ranges, join_keys, offsets_from_lengths
from feedfast.data.log import ImpressionLog
from feedfast.data.report import ReadReport
from feedfast.objectives import Group, Objective

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_TASTE_DIMS = 8
_MS_PER_DAY = 86_400_000
_START_MS = 1_700_006_400_000  # 2023-11-15 00:00 UTC
# The pool of a request: this many posts of a cluster the viewer likes and of another one.
_LIKED_POOL, _OTHER_POOL = 20, 12
_POOL = _LIKED_POOL + _OTHER_POOL
# The model policy draws one of its noisy rankings, or now and then a uniformly random order.
_NUM_RANKINGS = 4
_EXPLORE = 0.1
# What an engaged request leaves of the history that was there before.
_HISTORY_DECAY = 0.7


@dataclass(frozen=True, slots=True)
class _Action:
    """How members do one thing; `rate` is its mean at slot 0 of random sessions."""

    name: str
    group: Group
    rate: float
    strength: float
    activeness: float
    position_decay: float


_ACTIONS = (
    _Action("click", "passive", rate=0.160, strength=1.0, activeness=-0.2, position_decay=0.35),
    _Action("dwell", "passive", rate=0.300, strength=0.8, activeness=-0.3, position_decay=0.25),
    _Action("expand", "passive", rate=0.080, strength=0.9, activeness=0.0, position_decay=0.35),
    _Action("like", "active", rate=0.060, strength=1.3, activeness=0.9, position_decay=0.25),
    _Action("comment", "active", rate=0.015, strength=1.2, activeness=1.3, position_decay=0.25),
    _Action("reshare", "active", rate=0.008, strength=1.4, activeness=1.0, position_decay=0.25),
    _Action("vote", "active", rate=0.100, strength=0.8, activeness=0.6, position_decay=0.25),
    _Action(
        "creator_reply", "other", rate=0.0015, strength=0.9, activeness=1.2, position_decay=0.25
    ),
)
OBJECTIVES = tuple(Objective(action.name, action.group) for action in _ACTIONS)
_VOTE = [action.name for action in _ACTIONS].index("vote")
_ENGAGING = np.array([action.group != "other" for action in _ACTIONS])


class Simulation(NamedTuple):
    """A simulated log and the truth behind it; unpacks to (dataset, probabilities, relevance).

    Attributes:
        dataset: What a ranker may see.
        probabilities: [n, objectives] float32, P(label = 1) as it was shown, position included;
            also where the label is undefined.
        relevance: [n, objectives] float32, the same at the first slot: the best a ranker that does
            not know the position can predict about order.
    """

    dataset: Dataset
    probabilities: NDArray[np.float32]
    relevance: NDArray[np.float32]


def simulate(
    *,
    num_members: int = 20_000,
    num_requests: int = 30_000,
    num_posts: int = 40_000,
    num_hashtags: int = 2_000,
    num_clusters: int = 20,
    slots: int = 10,
    random_fraction: float = 0.1,
    days: int = 28,
    seed: int = 0,
) -> Simulation:
    """Generates feed sessions; the same arguments give the same log.

    Args:
        num_members: Members, who are all possible authors; a fifth of them open the feed.
        num_requests: Requests, each a session of its own.
        num_posts: Posts, reshares included.
        num_hashtags: Hashtags.
        num_clusters: Clusters of taste, >= 2.
        slots: Impressions per request, 1 to 32.
        random_fraction: Share of sessions that show random items, in [0, 1].
        days: Time span.
        seed: Of the generator.

    Returns:
        num_requests * slots impressions, ordered by time.

    Raises:
        ValueError: An argument is out of range.
    """
    _check(
        seed,
        num_members,
        num_requests,
        num_posts,
        num_hashtags,
        num_clusters,
        slots,
        random_fraction,
        days,
    )
    rng = np.random.default_rng(seed)
    world = _make_world(rng, num_members, num_posts, num_hashtags, num_clusters, days)
    requests = _make_requests(rng, world, num_requests, random_fraction, days)
    pools = _make_pools(rng, world, requests)
    shown = _show(rng, world, requests, pools, slots)
    relevance, probabilities, labels = _answer(rng, world, requests, shown)
    log = _make_log(rng, world, requests, shown, labels)
    notes = (
        f"Simulated feed, seed {seed}: {num_requests} requests of {slots} slots, "
        f"{random_fraction:.0%} of the sessions show random items.",
        "True probabilities are known; vote is undefined (null) for posts without a poll.",
    )
    dataset = Dataset(
        log=log, objectives=OBJECTIVES, superset=ANY_ENGAGEMENT, name="simulated", notes=notes
    )
    return Simulation(dataset, probabilities.astype(np.float32), relevance.astype(np.float32))


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _World:
    """Members [m], posts [p] (ordered by cluster, then by time) and hashtags [h]."""

    num_clusters: int
    num_hashtags: int
    member_cluster: IntArray
    member_taste: FloatArray  # [m, dims]
    charisma: FloatArray  # [m]
    activeness: FloatArray  # [m], mean 0
    post_cluster: IntArray
    post_time: IntArray  # ms
    post_taste: FloatArray  # [p, dims]
    post_quality: FloatArray
    post_actor: IntArray
    post_root: IntArray
    post_is_poll: NDArray[np.bool_]
    post_hashtags: IntArray  # [nnz]
    post_hashtag_offsets: IntArray  # [p + 1]

    def first_post(self) -> IntArray:
        """[clusters + 1]: posts of cluster c are [first[c], first[c + 1])."""
        return np.searchsorted(self.post_cluster, np.arange(self.num_clusters + 1))


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Requests:
    """Requests [r] in order of time; no two have the same time."""

    time: IntArray  # ms
    viewer: IntArray
    is_random: NDArray[np.bool_]
    liked_cluster: IntArray
    other_cluster: IntArray
    is_mobile: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Shown:
    """What each request showed, [requests, slots]."""

    post: IntArray
    propensity: FloatArray


def _check(
    seed: int,
    num_members: int,
    num_requests: int,
    num_posts: int,
    num_hashtags: int,
    num_clusters: int,
    slots: int,
    random_fraction: float,
    days: int,
) -> None:
    if seed < 0:
        raise ValueError(f"simulate: seed must be >= 0; got {seed}")
    limits = {
        "num_clusters": (num_clusters, 2, 1_000),
        "num_members": (num_members, 5 * num_clusters, 2**31),
        "num_requests": (num_requests, 1, 2**31),
        "num_posts": (num_posts, 2 * _POOL * num_clusters, 2**31),
        "num_hashtags": (num_hashtags, num_clusters, 2**31),
        "slots": (slots, 1, _POOL),
        "days": (days, 1, 10_000),
    }
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise ValueError(f"simulate: {name} must be in [{low}, {high}]; got {value}")
    if not 0.0 <= random_fraction <= 1.0:
        raise ValueError(f"simulate: random_fraction must be in [0, 1]; got {random_fraction}")


def _make_world(
    rng: np.random.Generator,
    num_members: int,
    num_posts: int,
    num_hashtags: int,
    num_clusters: int,
    days: int,
) -> _World:
    centers = rng.standard_normal((num_clusters, _TASTE_DIMS))
    member_cluster = np.sort(rng.integers(num_clusters, size=num_members))
    member_cluster[:num_clusters] = np.arange(num_clusters)  # no cluster is empty
    member_cluster = rng.permutation(member_cluster)
    member_taste = centers[member_cluster] + 0.6 * rng.standard_normal((num_members, _TASTE_DIMS))
    charisma = 0.5 * rng.standard_normal(num_members)

    post_cluster = np.arange(num_posts) * num_clusters // num_posts
    # The first half pool of each cluster is there when the log begins.
    first = np.searchsorted(post_cluster, np.arange(num_clusters))
    age_rank = np.arange(num_posts) - first[post_cluster]
    post_time = _START_MS + (rng.random(num_posts) * days * _MS_PER_DAY).astype(np.int64)
    post_time[age_rank < 2 * _LIKED_POOL] -= days * _MS_PER_DAY
    post_time = post_time[np.lexsort((post_time, post_cluster))]

    # Active authors write most of a cluster's posts.
    author_weight = rng.pareto(1.3, size=num_members) + 0.05
    root = _draw_member_of_cluster(rng, member_cluster, author_weight, post_cluster, num_clusters)
    is_reshare = rng.random(num_posts) < 0.25
    resharer = _draw_member_of_cluster(
        rng, member_cluster, author_weight, post_cluster, num_clusters
    )
    actor = np.where(is_reshare, resharer, root)
    mean_taste = (
        0.5 * centers[post_cluster] + 0.25 * member_taste[root] + 0.25 * member_taste[actor]
    )

    hashtag_cluster = np.arange(num_hashtags) % num_clusters
    hashtag_taste = centers[hashtag_cluster] + 0.8 * rng.standard_normal(
        (num_hashtags, _TASTE_DIMS)
    )
    num_tags = rng.integers(0, 4, size=num_posts)
    offsets = offsets_from_lengths(num_tags)
    tag_cluster = np.repeat(post_cluster, num_tags)
    per_cluster = (num_hashtags - 1 - tag_cluster) // num_clusters + 1
    popularity_rank = (per_cluster * rng.random(len(tag_cluster)) ** 2.5).astype(np.int64)
    hashtags = popularity_rank * num_clusters + tag_cluster
    tag_sums = np.zeros((num_posts, _TASTE_DIMS))
    np.add.at(tag_sums, np.repeat(np.arange(num_posts), num_tags), hashtag_taste[hashtags])
    tagged = num_tags > 0
    mean_taste[tagged] = 0.6 * mean_taste[tagged] + 0.4 * tag_sums[tagged] / num_tags[tagged, None]

    return _World(
        num_clusters=num_clusters,
        num_hashtags=num_hashtags,
        member_cluster=member_cluster,
        member_taste=member_taste,
        charisma=charisma,
        activeness=0.8 * rng.standard_normal(num_members),
        post_cluster=post_cluster,
        post_time=post_time,
        post_taste=mean_taste + 0.3 * rng.standard_normal((num_posts, _TASTE_DIMS)),
        post_quality=0.6 * rng.standard_normal(num_posts),
        post_actor=actor,
        post_root=root,
        post_is_poll=rng.random(num_posts) < 0.08,
        post_hashtags=hashtags,
        post_hashtag_offsets=offsets,
    )


def _draw_member_of_cluster(
    rng: np.random.Generator,
    member_cluster: IntArray,
    weight: FloatArray,
    wanted: IntArray,
    num_clusters: int,
) -> IntArray:
    """[len(wanted)] members of the wanted clusters, drawn in proportion to their weight."""
    order = np.argsort(member_cluster, kind="stable")
    running = np.concatenate([[0.0], np.cumsum(weight[order])])
    edges = np.searchsorted(member_cluster[order], np.arange(num_clusters + 1))
    low, high = running[edges[wanted]], running[edges[wanted + 1]]
    place = np.searchsorted(running, low + rng.random(len(wanted)) * (high - low), side="right") - 1
    members: IntArray = order[np.clip(place, edges[wanted], edges[wanted + 1] - 1)]
    return members


def _make_requests(
    rng: np.random.Generator, world: _World, num_requests: int, random_fraction: float, days: int
) -> _Requests:
    num_members = len(world.member_cluster)
    viewers = rng.permutation(num_members)[: max(1, num_members // 5)]
    weight = np.exp(rng.standard_normal(len(viewers)))
    viewer = viewers[rng.choice(len(viewers), size=num_requests, p=weight / weight.sum())]
    # Sorted times plus their rank: no two requests are simultaneous.
    time = np.sort((rng.random(num_requests) * days * _MS_PER_DAY).astype(np.int64)) + np.arange(
        num_requests
    )
    own = world.member_cluster[viewer]
    second = (own + 1 + viewer % (world.num_clusters - 1)) % world.num_clusters
    liked = np.where(rng.random(num_requests) < 0.75, own, second)
    other = (liked + rng.integers(1, world.num_clusters, size=num_requests)) % world.num_clusters
    return _Requests(
        time=_START_MS + time,
        viewer=viewer,
        is_random=rng.random(num_requests) < random_fraction,
        liked_cluster=liked,
        other_cluster=other,
        is_mobile=rng.random(num_requests) < 0.6,
    )


def _make_pools(rng: np.random.Generator, world: _World, requests: _Requests) -> IntArray:
    """[requests, pool] distinct posts, all older than the request.

    The pool takes one post out of each of several consecutive strata of the cluster's latest posts.
    """
    first = world.first_post()
    # Posts of all clusters on one time axis: cluster after cluster.
    span = int(requests.time.max() - world.post_time.min()) + 1
    axis = world.post_cluster * span + np.minimum(world.post_time - world.post_time.min(), span - 1)
    parts = []
    for cluster, size in (
        (requests.liked_cluster, _LIKED_POOL),
        (requests.other_cluster, _OTHER_POOL),
    ):
        since_start = requests.time - world.post_time.min()
        newest = np.searchsorted(axis, cluster * span + since_start) - 1
        available = newest + 1 - first[cluster]
        stride = np.clip(available // size, 1, 6)[:, None]
        lag = np.arange(size) * stride + (rng.random((len(cluster), size)) * stride).astype(
            np.int64
        )
        parts.append(newest[:, None] - lag)
    return np.concatenate(parts, axis=1)


def _base_appeal(world: _World, viewer: IntArray, post: IntArray) -> FloatArray:
    """[requests, posts of each]: appeal without the history term."""
    taste = (
        np.einsum("rd,rpd->rp", world.member_taste[viewer], world.post_taste[post]) / _TASTE_DIMS
    )
    charisma = world.charisma[world.post_actor[post]] + world.charisma[world.post_root[post]]
    appeal: FloatArray = taste + charisma + world.post_quality[post]
    return appeal


def _show(
    rng: np.random.Generator, world: _World, requests: _Requests, pools: IntArray, slots: int
) -> _Shown:
    """Chooses what each slot shows, with the exact probability of that choice.

    Random sessions: a uniformly random order, so an item is at a slot with probability 1 / pool.
    Model sessions draw one of a few rankings by noisy appeal with equal probability, or with
    probability `_EXPLORE` a uniformly random order:

        P(item at slot) = (1 - explore) * (share of rankings with the item there) + explore / pool
    """
    num_requests = len(pools)
    appeal = _base_appeal(world, requests.viewer, pools)
    noise = rng.standard_normal((num_requests, _NUM_RANKINGS, _POOL))
    rankings = np.argsort(-(appeal[:, None, :] + 0.8 * noise), axis=2)[:, :, :slots]
    uniform = np.argsort(rng.random((num_requests, _POOL)), axis=1)[:, :slots]
    explores = requests.is_random | (rng.random(num_requests) < _EXPLORE)
    drawn = rankings[np.arange(num_requests), rng.integers(_NUM_RANKINGS, size=num_requests)]
    chosen = np.where(explores[:, None], uniform, drawn)
    agreeing = (rankings == chosen[:, None, :]).mean(axis=1)
    model_propensity = (1.0 - _EXPLORE) * agreeing + _EXPLORE / _POOL
    return _Shown(
        post=np.take_along_axis(pools, chosen, axis=1),
        propensity=np.where(requests.is_random[:, None], 1.0 / _POOL, model_propensity),
    )


def _answer(
    rng: np.random.Generator, world: _World, requests: _Requests, shown: _Shown
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(relevance, probabilities, labels), each [impressions, objectives].

    Requests are answered in waves: wave w holds the w-th request of every viewer, so that what a
    viewer did before is known when it matters.
    """
    num_requests, slots = shown.post.shape
    strength = np.array([action.strength for action in _ACTIONS])
    activeness = np.array([action.activeness for action in _ACTIONS])
    decay = np.array([action.position_decay for action in _ACTIONS])
    examine = (1.0 + np.arange(slots))[:, None] ** -decay
    appeal = _base_appeal(world, requests.viewer, shown.post)
    # Mobile members dwell and comment less; [requests, objectives].
    context = np.outer(requests.is_mobile, [0.0, -0.3, 0.1, 0.1, -0.4, 0.0, 0.0, 0.0])
    context += np.outer(world.activeness[requests.viewer], activeness)
    bias = _calibrated_bias(appeal, context, strength, requests.is_random)

    by_viewer = np.argsort(requests.viewer, kind="stable")
    sorted_viewers = requests.viewer[by_viewer]
    wave_of = np.arange(num_requests) - np.searchsorted(sorted_viewers, sorted_viewers)
    waves = by_viewer[np.argsort(wave_of, kind="stable")]
    wave_offsets = offsets_from_lengths(np.bincount(wave_of))

    history = np.zeros_like(world.member_taste)
    relevance = np.empty((num_requests, slots, len(_ACTIONS)))
    labels = np.empty_like(relevance)
    uniform = rng.random(relevance.shape)
    for start, stop in pairwise(wave_offsets):
        now = waves[start:stop]
        viewer, post = requests.viewer[now], shown.post[now]
        recalled = np.einsum("rd,rsd->rs", history[viewer], world.post_taste[post]) / _TASTE_DIMS
        logit = bias + strength * (appeal[now] + recalled)[:, :, None] + context[now][:, None, :]
        relevance[now] = 1.0 / (1.0 + np.exp(-logit))
        happened = uniform[now] < examine * relevance[now]
        happened[:, :, _VOTE] &= world.post_is_poll[post]
        labels[now] = happened
        engaged = happened[:, :, _ENGAGING].any(axis=2)
        count = engaged.sum(axis=1)[:, None]
        sums = np.einsum(
            "rs,rsd->rd", engaged.astype(np.float64), world.member_taste[world.post_actor[post]]
        )
        fresh = np.divide(sums, count, out=np.zeros_like(sums), where=count > 0)
        updated = _HISTORY_DECAY * history[viewer] + (1.0 - _HISTORY_DECAY) * fresh
        history[viewer] = np.where(count > 0, updated, history[viewer])
    labels[:, :, _VOTE][~world.post_is_poll[shown.post]] = np.nan

    flat = (-1, len(_ACTIONS))
    return relevance.reshape(flat), (examine * relevance).reshape(flat), labels.reshape(flat)


def _calibrated_bias(
    appeal: FloatArray, context: FloatArray, strength: FloatArray, is_random: NDArray[np.bool_]
) -> FloatArray:
    """[objectives]: biases that give the wanted mean relevance before any history, by bisection."""
    kept = is_random if is_random.any() else np.ones_like(is_random)
    logits = (strength * appeal[kept][:, :, None] + context[kept][:, None, :]).reshape(
        -1, len(strength)
    )[:50_000]
    wanted = np.array([action.rate for action in _ACTIONS])
    low, high = np.full(len(wanted), -30.0), np.full(len(wanted), 30.0)
    for _ in range(40):
        middle = 0.5 * (low + high)
        too_low = (1.0 / (1.0 + np.exp(-(logits + middle)))).mean(axis=0) < wanted
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    bias: FloatArray = 0.5 * (low + high)
    return bias


def _make_log(
    rng: np.random.Generator, world: _World, requests: _Requests, shown: _Shown, labels: FloatArray
) -> ImpressionLog:
    num_requests, slots = shown.post.shape
    n = num_requests * slots
    request = np.repeat(np.arange(num_requests), slots)
    post = shown.post.ravel()
    members = join_keys("member", np.arange(len(world.member_cluster)))
    hashtags = join_keys("hashtag", np.arange(world.num_hashtags))
    starts, num_tags = (
        world.post_hashtag_offsets[:-1][post],
        np.diff(world.post_hashtag_offsets)[post],
    )
    tags = world.post_hashtags[expand_ranges(starts, num_tags)]
    shared = _shared_features(rng, world, requests)
    dense = _dense_features(rng, world, requests.viewer[request], requests.time[request], post)
    return ImpressionLog(
        request_id=join_keys("request", np.arange(num_requests)).take(pa.array(request)),
        timestamp=requests.time[request],
        viewer=members.take(pa.array(requests.viewer[request])),
        item=join_keys("post", np.arange(len(world.post_time))).take(pa.array(post)),
        actor=members.take(pa.array(world.post_actor[post])),
        root_actor=members.take(pa.array(world.post_root[post])),
        hashtags=KeyBags(hashtags.take(pa.array(tags)), offsets_from_lengths(num_tags)),
        position=np.tile(np.arange(slots, dtype=np.int32), num_requests),
        policy_random=requests.is_random[request],
        propensity=shown.propensity.ravel().astype(np.float32),
        shared=np.column_stack(list(shared.values())).astype(np.float32)[request],
        shared_names=tuple(shared),
        dense=np.column_stack(list(dense.values())).astype(np.float32),
        dense_names=tuple(dense),
        labels=labels.astype(np.float32),
        objective_names=tuple(action.name for action in _ACTIONS),
        report=ReadReport(num_read=n),
    )


def _shared_features(
    rng: np.random.Generator, world: _World, requests: _Requests
) -> dict[str, FloatArray]:
    """Name to [requests]: what is known of the viewer and the session."""
    num_members = len(world.member_cluster)
    network_size = np.floor(np.exp(4.0 + rng.standard_normal(num_members)))
    contributions = rng.poisson(np.exp(0.5 + world.activeness)).astype(np.float64)
    contributions[rng.random(num_members) < 0.1] = np.nan
    hour = (requests.time % _MS_PER_DAY) * (2 * np.pi / _MS_PER_DAY)
    return {
        "network_size": network_size[requests.viewer],
        "contributions_90d": contributions[requests.viewer],
        "is_mobile": requests.is_mobile.astype(np.float64),
        "hour_sin": np.sin(hour),
        "hour_cos": np.cos(hour),
    }


def _dense_features(
    rng: np.random.Generator, world: _World, viewer: IntArray, time: IntArray, post: IntArray
) -> dict[str, FloatArray]:
    """Name to [impressions]: counts and ages of the candidate, with gaps."""
    num_posts, num_members = len(world.post_time), len(world.member_cluster)
    likes = rng.poisson(np.exp(2.0 + 0.9 * world.post_quality)).astype(np.float64)
    comments = rng.poisson(np.exp(0.5 + 0.7 * world.post_quality)).astype(np.float64)
    comments[rng.random(num_posts) < 0.15] = np.nan
    followers = np.floor(np.exp(5.0 + world.charisma + 0.7 * rng.standard_normal(num_members)))
    actor, root = world.post_actor[post], world.post_root[post]
    tie = np.einsum("ij,ij->i", world.member_taste[viewer], world.member_taste[actor]) / _TASTE_DIMS
    interactions = rng.poisson(np.exp(np.minimum(0.6 * tie - 1.0, 4.0))).astype(np.float64)
    interactions[rng.random(len(post)) < 0.5] = np.nan
    return {
        "post_age_hours": (time - world.post_time[post]) / 3_600_000.0,
        "likes": likes[post],
        "comments": comments[post],
        "actor_followers": followers[actor],
        "root_actor_followers": followers[root],
        "interactions_with_actor": interactions,
        "is_reshare": (actor != root).astype(np.float64),
        "is_poll": world.post_is_poll[post].astype(np.float64),
        "num_hashtags": np.diff(world.post_hashtag_offsets)[post].astype(np.float64),
    }
