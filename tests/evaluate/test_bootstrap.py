"""Bootstrap against scipy's and against loops written out; intervals and verdicts against what they promise."""

import math

import numpy as np
import pytest
from scipy import stats

from kdlib.evaluate import bootstrap
from kdlib.evaluate.bootstrap import ALPHA, RESAMPLES, compare, holm, interval, replicate_means, replicate_medians

CHANCE = {"not significant", "not significant after correction"}


def encoders(rng, images: int, difference: float = 0.0):
    """Per-image values of two encoders; the images do something to both alike."""
    base = rng.normal(size=images)
    return base + 0.5 * rng.normal(size=images) + difference, base + 0.5 * rng.normal(size=images)


def pair(a, b, weights, seed_noise_a=(0.0,), seed_noise_b=(0.0,)):
    """One pair for ``compare``; a seed moves all images of its side alike."""
    sides = []
    for values, noises in ((a, seed_noise_a), (b, seed_noise_b)):
        lines = replicate_means(values, weights)
        sides += [[values.mean() + noise for noise in noises], np.stack([lines + noise for noise in noises])]
    return tuple(sides)


def certain(difference: float, seed: int = 0):
    """A pair of one seed each whose replicates are normal around the difference, with a deviation of 1."""
    replicates = np.random.default_rng(seed).normal(difference, 1, RESAMPLES)
    return ([difference], replicates[None], [0.0], np.zeros((1, RESAMPLES)))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("images", [1, 2, 40])
def test_replicates__are_numpys_mean_and_median_of_the_repeated_values(images, ties):
    """Of one to five captions an image, in any order, and of one value an image; more resamples than a block."""
    weights, rng = bootstrap.resamples(images, 120), np.random.default_rng(images)
    owner = rng.permutation(np.repeat(np.arange(images), rng.integers(1, 6, images)))
    for own in (owner, None):
        of = np.arange(images) if own is None else own
        values = rng.normal(size=len(of)).round(0 if ties else 9)
        repeated = [np.repeat(values, row[of]) for row in weights]
        assert replicate_means(values, weights, own) == pytest.approx([one.mean() for one in repeated], abs=1e-12)
        assert replicate_medians(values, weights, own).tolist() == [np.median(one) for one in repeated]


def test_interval__is_scipys_percentile_interval():
    """4,000 resamples leave a difference of 0.015 of the width (sd) between two."""
    values = np.random.default_rng(3).gamma(2.0, size=401)
    ours = interval(replicate_means(values, bootstrap.resamples(401, 4000)))
    how = {"n_resamples": 4000, "method": "percentile", "rng": np.random.default_rng(0)}
    theirs = stats.bootstrap((values,), np.mean, **how).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.06 * (theirs.high - theirs.low))


@pytest.mark.parametrize(("hits", "images"), [(0, 100), (1, 500), (12, 5000), (497, 500)])
def test_share_replicates__near_an_end_the_interval_is_wilsons_and_the_order_stays(hits, images):
    values = (np.arange(images) < hits).astype(float)
    lines = replicate_means(values, bootstrap.resamples(images))
    made = bootstrap.share_replicates(values.mean(), lines, images)
    expected = stats.binomtest(hits, images).proportion_ci(0.95, method="wilson")
    assert interval(made) == pytest.approx((expected.low, expected.high), abs=1e-3 * (1 + 40 / images))
    assert (np.diff(made[np.argsort(lines, kind="stable")]) >= -1e-12).all()


@pytest.mark.parametrize("times", [0.5, 1.5, 3.0, 6.0])
def test_compare__p_is_that_of_the_normal_distribution(times):
    """Of a difference that is so many times its standard error; the median over 41 bootstraps."""
    p = [one.p for one in compare([certain(times, seed=seed) for seed in range(41)])]
    assert math.log(np.median(p)) == pytest.approx(math.log(2 * stats.norm.sf(times)), rel=0.05, abs=0.1)


def test_compare__p_is_below_5_percent_exactly_where_the_interval_leaves_0_out():
    results = compare([certain(times, seed=seed) for seed in range(60) for times in (1.7, 1.9, 2.0, -2.1, -1.95, 2.3)])
    outside = [not one.low <= 0 <= one.high for one in results]
    assert [one.p < ALPHA for one in results] == outside and 100 < sum(outside) < 260


def test_compare__a_family_of_60_finds_its_one_true_difference():
    """59 pairs that differ by chance, and one by 6 standard errors: counting resamples could never go below 0.002."""
    rng, weights = np.random.default_rng(0), bootstrap.resamples(400)
    family = [pair(*encoders(rng, 400), weights) for _ in range(59)]
    family.insert(30, pair(*encoders(rng, 400, 6 * math.sqrt(0.5 / 400)), weights))
    results = compare(family)
    true = results.pop(30)
    assert true.verdict == "better" and true.p < 1e-4 and {one.verdict for one in results} <= CHANCE
    assert sum(one.p < ALPHA for one in results) > 0  # alone, it would have been taken for a difference


def test_compare__p_is_uniform_without_a_difference():
    """800 comparisons of encoders that differ by chance alone, and Kolmogorov's distance at its 1 % level."""
    rng, weights = np.random.default_rng(0), bootstrap.resamples(200)
    p = np.array([one.p for one in compare([pair(*encoders(rng, 200), weights) for _ in range(800)])])
    assert stats.kstest(p, "uniform").statistic < 1.63 / math.sqrt(800)
    assert 0.027 < (p < ALPHA).mean() < 0.073


def test_compare__few_seeds_that_scatter_leave_no_tiny_p():
    """Differences of 1, 2 and 3 over three seeds, hardly any noise of images: Student's t has two degrees."""
    images = 0.01 * np.random.default_rng(0).normal(size=RESAMPLES)
    (result,) = compare([([1, 2, 3], np.array([[1], [2], [3]]) + images, [0] * 3, np.zeros((3, RESAMPLES)))])
    assert result.verdict == "better" and 0.002 < result.p < ALPHA


def test_compare__p_is_no_less_than_the_resamples_of_the_other_sign():
    """A median that jumps: 980 resamples say 1, 20 say -1."""
    (result,) = compare([([1.0], np.repeat([1.0, -1.0], [980, 20])[None], [0.0], np.zeros((1, 1000)))])
    assert result.p == pytest.approx(0.04, abs=1e-4)


def test_holm__by_hand_and_as_statsmodels_has_it():
    """Sorted 0.01, 0.02, 0.03, 0.4 times 4, 3, 2, 1; then multipletests(method='holm') of statsmodels 0.15.0."""
    assert holm([0.03, 0.4, 0.01, 0.02]) == pytest.approx([0.06, 0.4, 0.04, 0.06])
    p = [0.001, 0.04, 0.04, 0.013, 0.2, 0.0001]
    assert holm(p) == pytest.approx([0.005, 0.12, 0.12, 0.052, 0.2, 0.0006])


def test_compare__corrects_by_holm_and_says_what_it_overruled():
    results = compare([certain(2.2), certain(6.0, seed=1), certain(0.3, seed=2), certain(-5.0, seed=3)])
    assert [one.p_holm for one in results] == holm([one.p for one in results]).tolist()
    assert [one.verdict for one in results] == [
        "not significant after correction", "better", "not significant", "worse"
    ]  # fmt: skip
    assert compare([certain(2.2)])[0].verdict == "better" and compare([]) == []


@pytest.mark.parametrize("seeds", [1, 3])
def test_compare__identical_sides_are_not_significant(seeds):
    values, noise = np.random.default_rng(0).normal(size=90), np.linspace(0, 1, seeds)
    (result,) = compare([pair(values, values, bootstrap.resamples(90), noise, noise)])
    assert result == (0, 0, 0, 1, 1, "not significant")
    lines = np.random.default_rng(0).random(size=(1, 400))  # nor is what float32 makes of them a difference
    (result,) = compare([([0.5], lines.astype(np.float32), [0.5 - 1e-9], lines)])
    assert (result.p, result.verdict) == (1, "not significant")


@pytest.mark.parametrize("seeds", [(1, 1), (3, 3), (3, 1)])
def test_compare__swapping_the_sides_turns_the_verdict_around(seeds):
    rng, weights = np.random.default_rng(1), bootstrap.resamples(150)
    one = pair(*encoders(rng, 150, 0.4), weights, *(0.02 * rng.normal(size=count) for count in seeds))
    (there,), (back,) = compare([one]), compare([(*one[2:], *one[:2])])
    assert (there.verdict, back.verdict) == ("better", "worse")
    assert (back.p, back.difference) == (pytest.approx(there.p), -there.difference)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_compare__seeds_are_paired_where_both_sides_have_as_many():
    """Seeds that move both sides alike leave the difference alone; the same seeds in another order do not."""
    (a, b), weights = encoders(np.random.default_rng(0), 200, 0.2), bootstrap.resamples(200)
    noise = np.array([-0.5, 0.0, 0.5])
    sides = ((noise, noise), (noise, noise[::-1]), (noise, [0.0]), ([0.0], [0.0]))
    alike, other, uneven, single = compare([pair(a, b, weights, *side) for side in sides])
    assert (alike.low, alike.high) == pytest.approx((single.low, single.high))
    assert min(other.high - other.low, uneven.high - uneven.low) > 3 * (alike.high - alike.low)
