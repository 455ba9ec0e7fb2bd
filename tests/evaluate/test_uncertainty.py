"""Bootstrap against scipy's and against loops written out; intervals and verdicts against what they promise."""

import math

import numpy as np
import pytest
from scipy import stats

from kdlib.evaluate.uncertainty import (
    ALPHA,
    LEVEL,
    RESAMPLES,
    Comparison,
    Summary,
    compare,
    holm,
    interval,
    linear_replicates,
    replicate_means,
    replicate_medians,
    resamples,
    share_replicates,
    summarise,
)


def captions(images: int, seed: int, most: int = 5, own: float = 0.3):
    """Values of one to ``most`` captions an image, in any order; those of an image agree up to ``own``."""
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.repeat(np.arange(images), rng.integers(1, most + 1, images)))
    return rng.normal(size=images)[owner] + own * rng.normal(size=len(owner)), owner


def encoders(rng, images: int, difference: float = 0.0, shared: float = 1.0):
    """Per-image values of two encoders; ``shared``: the sd of what the images do to both alike."""
    base = shared * rng.normal(size=images)
    return base + 0.5 * rng.normal(size=images) + difference, base + 0.5 * rng.normal(size=images)


def pair(a, b, weights, seed_noise_a=(0.0,), seed_noise_b=(0.0,)):
    """One pair for ``compare``; a seed moves all images of its side alike."""
    sides = [[values + noise for noise in noises] for values, noises in ((a, seed_noise_a), (b, seed_noise_b))]
    scored = [
        ([one.mean() for one in side], np.stack([replicate_means(one, weights) for one in side])) for side in sides
    ]
    return ("a", "b", *scored[0], *scored[1])


def with_p(low: int, count: int = 199):
    """A pair of one seed each with ``low`` of its ``count`` replicates below 0, so that p = 2 (1 + low) / 200."""
    replicates = np.where(np.arange(count) < low, -1.0, 1.0)
    return ("a", "b", [1.0], replicates[None], [0.0], np.zeros((1, count)))


def test_resamples__rows_sum_to_the_images_and_counts_are_those_of_drawing_with_replacement():
    weights = resamples(300)
    assert weights.shape == (RESAMPLES, 300) and (weights.sum(axis=1) == 300).all()
    assert weights.mean() == 1
    assert weights.var() == pytest.approx(1 - 1 / 300, abs=0.02)  # binomial(300, 1/300)
    assert (weights == 0).mean() == pytest.approx((1 - 1 / 300) ** 300, abs=0.005)
    between = np.corrcoef(weights.T)[np.triu_indices(300, 1)]
    assert between.mean() == pytest.approx(-1 / 299, abs=0.001)
    assert len(np.unique(weights, axis=0)) == RESAMPLES


def test_resamples__are_a_function_of_their_arguments_and_cannot_be_written():
    first = resamples(50, 20).copy()
    np.random.default_rng(0).normal(size=3)
    np.random.seed(1)
    resamples.cache_clear()
    assert (resamples(50, 20) == first).all()
    assert not (resamples(50, 21)[:20] == first).all()
    with pytest.raises(ValueError):
        resamples(50, 20)[0, 0] = 9


@pytest.mark.parametrize("images", [0, -1, 2**16])
def test_resamples__a_number_of_images_that_counts_cannot_hold_is_an_error(images):
    with pytest.raises(ValueError, match="images"):
        resamples(images)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("images", [1, 2, 9, 40])
def test_replicates__are_numpys_mean_and_median_of_the_repeated_values(images, ties):
    weights = resamples(images, 120)  # more than one block
    values, owner = captions(images, seed=images)
    values = np.round(values) if ties else values
    alone = np.random.default_rng(1).normal(size=images)
    for case, own in ((values, owner), (alone, None)):
        of = np.arange(images) if own is None else own
        repeated = [np.repeat(case, row[of]) for row in weights]
        means, medians = replicate_means(case, weights, own), replicate_medians(case, weights, own)
        assert means.shape == medians.shape == (120,)
        assert means.tolist() == pytest.approx([one.mean() for one in repeated], abs=1e-12)
        assert medians.tolist() == [np.median(one) for one in repeated]


def test_replicates__by_hand():
    """Image 0 has captions 1 and 5, image 1 has 9; the resamples hold image 0 twice, both once, image 1 twice."""
    weights, values, owner = np.array([[2, 0], [1, 1], [0, 2]]), np.array([1.0, 9.0, 5.0]), np.array([0, 1, 0])
    assert replicate_means(values, weights, owner).tolist() == [3, 5, 9]
    assert replicate_medians(values, weights, owner).tolist() == [3, 5, 9]
    assert replicate_medians(np.array([1.0, 9.0]), weights).tolist() == [1, 5, 9]


def test_replicates__of_a_constant_are_that_constant():
    weights = resamples(70, 100)
    assert (replicate_means(np.full(70, 0.25), weights) == 0.25).all()
    assert (replicate_medians(np.full(70, 0.1), weights) == 0.1).all()


def test_replicates__what_does_not_fit_is_an_error():
    weights = resamples(4, 10)
    for replicates in (replicate_means, replicate_medians):
        with pytest.raises(ValueError, match="one image a query"):
            replicates(np.ones(5), weights)
        with pytest.raises(ValueError, match="none of the 4 images"):
            replicates(np.ones(3), weights, np.array([0, 1, 4]))
        with pytest.raises(ValueError, match="no query"):
            replicates(np.ones(1), np.array([[0, 4]]), np.array([0]))


@pytest.mark.parametrize(("statistic", "share"), [("mean", 0.06), ("median", 0.1)])
def test_interval__is_scipys_percentile_interval(statistic, share):
    """4,000 resamples leave a difference of 0.015 of the width (sd) between two; a median also jumps by its gaps."""
    values = np.random.default_rng(3).gamma(2.0, size=401)
    replicates = {"mean": replicate_means, "median": replicate_medians}[statistic]
    ours = interval(replicates(values, resamples(401, 4000)))
    theirs = stats.bootstrap(
        (values,), getattr(np, statistic), n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=share * width)


def test_interval__of_captions_clustered_by_image_is_scipys_over_images():
    """The ratio of sums over images: scipy resamples (sum, count) of an image as a pair."""
    values, owner = captions(300, seed=5)
    sums, counts = np.bincount(owner, values), np.bincount(owner)
    theirs = stats.bootstrap(
        (sums, counts), lambda s, c, axis=-1: s.sum(axis=axis) / c.sum(axis=axis), paired=True, n_resamples=4000,
        method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval  # fmt: skip
    ours = interval(replicate_means(values, resamples(300, 4000), owner))
    assert ours == pytest.approx(tuple(theirs), abs=0.06 * (theirs.high - theirs.low))


def test_interval__is_the_percentiles_by_hand():
    assert interval(np.arange(101)) == pytest.approx((2.5, 97.5))
    assert interval(np.arange(101), level=0.9) == pytest.approx((5, 95))
    assert interval(np.full(8, 0.3, dtype=np.float32)) == (np.float32(0.3), np.float32(0.3))


def test_interval__holds_the_truth_as_often_as_it_says():
    weights, rng = resamples(120, 400), np.random.default_rng(0)
    mean, median = [], []
    for _ in range(300):
        values = rng.exponential(size=120)
        low, high = interval(replicate_means(values, weights))
        mean.append(low <= 1 <= high)
        low, high = interval(replicate_medians(values, weights))
        median.append(low <= math.log(2) <= high)
    assert 0.90 <= np.mean(mean) <= 0.99
    assert 0.90 <= np.mean(median) <= 0.99


def test_interval__holds_the_truth_with_captions_that_agree_and_is_too_narrow_when_they_count_as_independent():
    weights, held, narrow = resamples(80, 400), [], []
    for seed in range(200):
        values, owner = captions(80, seed)
        low, high = interval(replicate_means(values, weights, owner))
        held.append(low <= 0 <= high)
        if seed < 20:
            one, other = interval(replicate_means(values, resamples(len(values), 400)))
            narrow.append((other - one) / (high - low))
    assert 0.90 <= np.mean(held) <= 0.99
    assert np.mean(narrow) < 0.75


def test_interval__the_order_of_the_images_changes_it_within_the_noise_of_resampling_only():
    values, owner = captions(400, seed=2)
    order = np.random.default_rng(0).permutation(400)
    one = interval(replicate_means(values, resamples(400, 4000), owner))
    other = interval(replicate_means(values, resamples(400, 4000), order[owner]))
    assert one != other
    assert one == pytest.approx(other, abs=0.06 * (one[1] - one[0]))


def test_summary__reads_as_a_table_wants_it():
    several, single = Summary(0.72, 0.01, 0.7, 0.74, 3), Summary(0.72, float("nan"), 0.7, 0.74, 1)
    assert str(several) == several.text() == "0.720 ± 0.010 [0.700, 0.740]"
    assert str(single) == "0.720 [0.700, 0.740]"
    assert several.text(1) == "0.7 ± 0.0 [0.7, 0.7]"


def test_summarise__by_hand():
    summary = summarise([0.1, 0.2, 0.6], np.stack([np.arange(101), np.arange(101) + 2, np.arange(101) + 4]))
    assert summary.mean == pytest.approx(0.3) and summary.seeds == 3
    assert summary.deviation == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert (summary.low, summary.high) == pytest.approx((4.5, 99.5))
    alone = summarise([0.1], np.full((1, 5), 0.1))
    assert math.isnan(alone.deviation) and alone.seeds == 1
    with pytest.raises(ValueError, match="a line each"):
        summarise([0.1, 0.2], np.zeros((3, 5)))
    with pytest.raises(ValueError, match="a line each"):
        summarise([0.1], np.zeros(5))


def test_summarise__the_interval_is_of_the_mean_over_seeds_on_the_same_images():
    """Networks that err on the same images are no more certain together than one alone."""
    weights, rng = resamples(500), np.random.default_rng(0)
    base = rng.normal(size=500)
    alike = [base, base, base]
    unlike = [rng.normal(size=500) for _ in range(3)]
    widths = []
    for seeds in (alike, unlike):
        summary = summarise([one.mean() for one in seeds], np.stack([replicate_means(one, weights) for one in seeds]))
        widths.append(summary.high - summary.low)
    assert widths[0] == pytest.approx(2 * 1.96 / math.sqrt(500), rel=0.12)
    assert widths[1] == pytest.approx(widths[0] / math.sqrt(3), rel=0.15)


def test_compare__p_is_counted_and_corrected_by_hand():
    """p of .01, .04, .03 and 1: Holm multiplies the sorted ones by 4, 3, 2, 1 and never falls."""
    results = compare([with_p(0), with_p(3), with_p(2), with_p(100)])
    assert [one.p for one in results] == pytest.approx([0.01, 0.04, 0.03, 1.0])
    assert [one.p_holm for one in results] == pytest.approx([0.04, 0.09, 0.09, 1.0])
    assert [one.verdict for one in results] == ["better", *2 * ["undecided after correction"], "not distinguishable"]


def test_holm__by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.4 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.4; a step never falls, and none is above 1."""
    assert holm([0.03, 0.4, 0.01, 0.02]) == pytest.approx([0.06, 0.4, 0.04, 0.06])
    assert holm([0.5, 0.6, 0.9]).tolist() == [1, 1, 1]
    assert holm([0.2]).tolist() == [0.2] and holm([]).tolist() == []


def test_holm__as_statsmodels_has_it():
    """multipletests(p, method='holm') of statsmodels 0.15.0, printed once; equal p-values share the larger step."""
    p = [0.001, 0.04, 0.04, 0.013, 0.2, 0.0001]
    assert holm(p) == pytest.approx([0.005, 0.12, 0.12, 0.052, 0.2, 0.0006])


def test_compare__holm_is_the_rule_written_out():
    lows = np.random.default_rng(0).integers(0, 25, 12)
    results = compare([with_p(low) for low in lows])
    p, running, expected = [one.p for one in results], 0.0, {}
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        running = max(running, min(1.0, (12 - rank) * p[index]))
        expected[index] = running
    assert [one.p_holm for one in results] == pytest.approx([expected[index] for index in range(12)])


def test_compare__a_family_of_one_is_not_corrected_and_an_empty_one_has_no_result():
    (result,) = compare([with_p(3)])
    assert result.p == result.p_holm == pytest.approx(0.04)
    assert result.verdict == "better"
    assert compare([]) == []


def test_compare__leaves_room_for_a_verdict_among_24_and_none_among_26_at_a_thousand_resamples():
    sure = ("a", "b", [1.0], np.ones((1, RESAMPLES)), [0.0], np.zeros((1, RESAMPLES)))
    assert compare([sure])[0].p == 2 / (RESAMPLES + 1)
    assert {one.verdict for one in compare([sure] * 25)} == {"better"}
    assert {one.verdict for one in compare([sure] * 26)} == {"undecided after correction"}


@pytest.mark.parametrize("seeds", [1, 3])
def test_compare__identical_sides_are_not_distinguishable(seeds):
    values, weights = np.random.default_rng(0).normal(size=90), resamples(90)
    noise = np.linspace(0, 1, seeds)
    (result,) = compare([pair(values, values, weights, noise, noise)])
    assert (result.difference, result.low, result.high) == (0, 0, 0)
    assert (result.p, result.verdict) == (1, "not distinguishable")


def test_compare__a_difference_that_float32_made_is_none():
    values = np.random.default_rng(0).random(size=(1, 400))
    stored = ("a", "b", [0.5], values.astype(np.float32), [0.5 - 1e-9], values)
    assert compare([stored])[0].p == 1


@pytest.mark.parametrize("seeds", [(1, 1), (3, 3), (3, 1), (2, 3)])
def test_compare__swapping_the_sides_turns_the_verdict_around(seeds):
    rng, weights = np.random.default_rng(1), resamples(150)
    noises = [0.02 * rng.normal(size=count) for count in seeds]
    for difference, expected in ((0.4, ("better", "worse")), (-0.4, ("worse", "better"))):
        one = pair(*encoders(rng, 150, difference), weights, *noises)
        (there,), (back,) = compare([one]), compare([("b", "a", *one[4:], *one[2:4])])
        assert (there.verdict, back.verdict) == expected
        assert (there.name_a, there.name_b) == (back.name_b, back.name_a) == ("a", "b")
        assert (back.p, back.p_holm, back.difference) == (there.p, there.p_holm, -there.difference)
        assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
        assert there.low <= there.difference <= there.high


def spoken(pairs) -> list[bool]:
    """Whether each pair, alone in its family, has a verdict."""
    return [one.p < ALPHA for one in compare(pairs)]


def test_compare__speaks_without_a_difference_as_rarely_as_it_says():
    """1,500 comparisons of encoders that differ by chance alone: 5 % and three standard errors are 6.7 %."""
    rng, weights = np.random.default_rng(0), resamples(200)
    assert 0.03 < np.mean(spoken([pair(*encoders(rng, 200), weights) for _ in range(1500)])) < 0.067


def test_compare__the_noise_of_three_seeds_is_carried_where_one_seed_would_speak():
    """No difference, and seeds as noisy as images: three a side speak in 8 % of cases, one a side in 26 %."""
    rng, weights, sigma = np.random.default_rng(0), resamples(150), math.sqrt(2 * 0.5**2 / 150)
    pairs = {1: [], 3: []}
    for _ in range(400):
        a, b = encoders(rng, 150)
        for seeds, cases in pairs.items():
            cases.append(pair(a, b, weights, sigma * rng.normal(size=seeds), sigma * rng.normal(size=seeds)))
    assert np.mean(spoken(pairs[3])) < 0.12  # more than 5 %, as compare's docstring says
    assert np.mean(spoken(pairs[1])) > 0.18


def test_compare__seeds_are_paired_where_both_sides_have_as_many():
    """Seeds that move both sides alike leave the difference alone; the same seeds dealt otherwise do not."""
    rng, weights = np.random.default_rng(0), resamples(200)
    a, b = encoders(rng, 200, 0.2)
    noise = np.array([-0.5, 0.0, 0.5])
    alike, dealt, single = compare(
        [pair(a, b, weights, noise, noise), pair(a, b, weights, noise, noise[::-1]), pair(a, b, weights)]
    )
    assert (alike.low, alike.high) == pytest.approx((single.low, single.high))
    assert dealt.high - dealt.low > 3 * (alike.high - alike.low)
    (uneven,) = compare([pair(a, b, weights, noise, [0.0])])
    assert uneven.high - uneven.low > 3 * (alike.high - alike.low)
    assert uneven.difference == pytest.approx(alike.difference)


def test_compare__finds_a_real_difference():
    rng, weights = np.random.default_rng(0), resamples(200)
    sigma = math.sqrt(2 * 0.5**2 / 200)  # of the mean difference
    for times, least, most in ((4, 0.93, 1.0), (2, 0.38, 0.66), (0, 0.0, 0.07)):  # a z test: 0.98, 0.52, 0.025
        results = compare([pair(*encoders(rng, 200, times * sigma), weights) for _ in range(150)])
        assert least <= np.mean([one.p < ALPHA and one.difference > 0 for one in results]) <= most, times


def test_compare__pairing_by_image_narrows_the_interval_of_encoders_that_agree():
    a, b = encoders(np.random.default_rng(0), 300)
    weights = resamples(300)
    order = np.random.default_rng(1).permutation(RESAMPLES)
    paired = pair(a, b, weights)
    parted = (*paired[:5], paired[5][:, order])  # the same replicates of b, no longer those of the same images
    one, other = compare([paired, parted])
    assert other.high - other.low > 1.8 * (one.high - one.low)  # sqrt(2 (1 + 0.25)) against sqrt(2 0.25)
    expected = 2 * 1.96 * np.std(a - b) / math.sqrt(300)
    assert one.high - one.low == pytest.approx(expected, rel=0.12)


def test_compare__is_the_same_each_time_and_alone_or_in_company():
    rng, weights = np.random.default_rng(0), resamples(60)
    pairs = [pair(*encoders(rng, 60), weights, 0.1 * rng.normal(size=3), 0.1 * rng.normal(size=2)) for _ in range(3)]
    whole = compare(pairs)
    assert whole == compare(pairs)
    for one, company in zip(pairs, whole, strict=True):
        (alone,) = compare([one])
        assert isinstance(alone, Comparison)
        assert (alone.difference, alone.low, alone.high, alone.p) == (
            company.difference, company.low, company.high, company.p
        )  # fmt: skip
        assert company.p_holm >= alone.p_holm


def test_compare__sides_that_were_not_resampled_alike_are_an_error():
    with pytest.raises(ValueError, match="not resampled alike"):
        compare([("a", "b", [1.0], np.ones((1, 10)), [1.0], np.ones((1, 11)))])
    with pytest.raises(ValueError, match="a line each"):
        compare([("a", "b", [1.0, 2.0], np.ones((1, 10)), [1.0], np.ones((1, 10)))])


def wilson(share: float, images: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval by scipy, of a whole number of hits."""
    found = stats.binomtest(round(share * images), images).proportion_ci(level, method="wilson")
    return found.low, found.high


@pytest.mark.parametrize(("hits", "images"), [(0, 100), (1, 500), (12, 5000), (497, 500)])
def test_share_replicates__near_an_end_the_interval_is_wilsons(hits, images):
    values = (np.arange(images) < hits).astype(float)
    drawn = replicate_means(values, resamples(images))
    for level in (0.8, 0.95):
        made = interval(share_replicates(values.mean(), drawn, images), level)
        assert made == pytest.approx(wilson(hits / images, images, level), abs=1e-3 * (1 + 40 / images))


def test_share_replicates__keep_the_order_of_the_resamples_and_leave_other_shares_alone():
    values = (np.arange(500) < 4).astype(float)
    drawn = replicate_means(values, resamples(500))
    made = share_replicates(values.mean(), drawn, 500)
    assert (np.diff(made[np.argsort(drawn, kind="stable")]) >= 0).all()
    many = replicate_means((np.arange(500) < 40).astype(float), resamples(500))
    assert share_replicates(0.08, many, 500) is many


def test_level__is_that_of_the_protocol():
    assert (RESAMPLES, LEVEL, ALPHA) == (1000, 0.95, 0.05)


def test_linear_replicates__of_a_mean_are_exactly_its_resampled_means():
    values = np.random.default_rng(3).normal(size=70)
    weights = resamples(70)
    quick = linear_replicates(values.mean(), (values - values.mean()) / 70, weights)
    assert np.allclose(quick, replicate_means(values, weights), atol=1e-12)


def test_linear_replicates__needs_one_influence_an_image():
    with pytest.raises(ValueError, match="69 influences for 70 images"):
        linear_replicates(0.5, np.zeros(69), resamples(70))
