"""Per-sample evidence: against statsmodels' clustered errors, and against drawing clusters again and again."""

import math

import numpy as np
import pytest
import statsmodels.api as sm

from ablate.samples import SampleLosses, clustered_mean, last_losses, paired, read_losses


def written(folder, step=10, **columns):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "eval").mkdir(parents=True, exist_ok=True)
    path = folder / "eval" / f"{step:08d}.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def losses(values, clusters=None, by="sample"):
    rows = range(len(values))
    return SampleLosses(dict(zip(rows, values, strict=True)), dict(zip(rows, clusters or rows, strict=True)), by)


def clustered(seed, clips=40, each=5):
    """Differences that share a part per clip."""
    random = np.random.default_rng(seed)
    about = np.repeat(np.arange(clips), each)
    return random.normal(0.0, 1.0, clips)[about] + random.normal(0.1, 0.5, clips * each), about


@pytest.mark.parametrize("seed", range(5))
def test_the_error_is_that_of_a_regression_on_a_constant_with_clustered_errors(seed):
    values, about = clustered(seed)
    mean, error, groups = clustered_mean(values.tolist(), about.tolist())
    fitted = sm.OLS(values, np.ones_like(values)).fit(cov_type="cluster", cov_kwds={"groups": about})
    assert (mean, groups) == (pytest.approx(fitted.params[0]), 40)
    assert error == pytest.approx(fitted.bse[0])


def test_without_clusters_it_is_the_usual_standard_error_of_a_mean():
    values = [0.1, 0.4, -0.2, 0.3]
    _, error, _ = clustered_mean(values, range(4))
    assert error == pytest.approx(np.std(values, ddof=1) / 2)


def test_samples_of_one_clip_count_for_little_more_than_one():
    """The bootstrap over whole clips agrees; counting samples as independent would claim half the error."""
    values, about = clustered(7)
    _, error, _ = clustered_mean(values.tolist(), about.tolist())
    random = np.random.default_rng(0)
    by_clip = values.reshape(40, 5)
    drawn = by_clip[random.integers(0, 40, (4000, 40))].mean(axis=(1, 2))
    assert error == pytest.approx(drawn.std(), rel=0.1)
    assert np.std(values, ddof=1) / np.sqrt(len(values)) < 0.6 * error


def test_losses_are_averaged_over_common_seeds_and_paired_by_row():
    a = {42: losses([1.0, 2.0, 3.0]), 43: losses([1.2, 2.2, 3.2]), 44: losses([9.0, 9.0, 9.0])}
    b = {42: losses([0.9, 2.1, 2.8]), 43: losses([1.1, 2.1, 3.0])}
    found = paired(a, b)
    assert (found.seeds, found.samples, found.clusters, found.by) == ((42, 43), 3, 3, "sample")
    assert found.delta == pytest.approx(np.mean([0.1, 0.0, 0.2]))
    assert found.low < found.delta < found.high


def test_runs_without_a_common_seed_have_no_evidence_by_sample():
    assert paired({42: losses([1.0, 2.0])}, {43: losses([1.0, 2.0])}) is None


def test_a_parquet_file_is_read_by_kind_and_clustered_by_clip_where_it_says_so(tmp_path):
    path = written(
        tmp_path, row=[0, 1, 2, 3], kind=["video", "video", "image", "text"], loss=[1.0, 2.0, 3.0, None], clip=[7, 7, 8, 9]
    )
    assert read_losses(path, "val_loss").losses == {0: 1.0, 1: 2.0, 2: 3.0}
    assert read_losses(path, "val_loss/video") == SampleLosses({0: 1.0, 1: 2.0}, {0: ("clip", 7), 1: ("clip", 7)}, "clip")
    assert read_losses(path, "image_vqa") is None


def test_clips_and_images_of_one_file_are_clusters_of_their_own_and_a_text_is_its_own(tmp_path):
    path = written(
        tmp_path,
        row=[0, 1, 2, 3, 4],
        kind=["video", "video", "image", "image", "text"],
        loss=[1.0, 2.0, 3.0, 4.0, 5.0],
        clip=["a", "a", None, None, None],
        image=[None, None, "a", "b", None],
    )
    found = read_losses(path, "val_loss")
    assert found.by == "clip or image"
    assert found.clusters == {0: ("clip", "a"), 1: ("clip", "a"), 2: ("image", "a"), 3: ("image", "b"), 4: ("row", 4)}
    assert read_losses(path, "val_loss/text").by == "sample"


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.8])
def test_the_interval_covers_at_its_level_whatever_the_correlation_inside_clips(correlation):
    """Differences with a known correlation inside clips (Kish 1965: the variance of their mean grows by 1 + (m − 1) ρ)."""
    random, clips, each, truth = np.random.default_rng(3), 40, 5, 0.2
    covered, errors, means = 0, [], []
    for _ in range(600):
        shared = random.normal(0.0, math.sqrt(correlation), (clips, 1))
        values = truth + shared + random.normal(0.0, math.sqrt(1 - correlation), (clips, each))
        rows = values.ravel().tolist()
        about = np.repeat(np.arange(clips), each).tolist()
        found = paired({42: losses(rows, about, "clip")}, {42: losses([0.0] * len(rows), about, "clip")})
        covered += found.low <= truth <= found.high
        errors.append(found.error)
        means.append(found.delta)
    assert 0.925 <= covered / 600 <= 0.975  # 0.95 ± 2.8 standard errors
    known = math.sqrt((1 + (each - 1) * correlation) / (clips * each))
    assert np.mean(errors) == pytest.approx(known, rel=0.04)
    assert np.std(means) == pytest.approx(known, rel=0.1)


def test_the_last_evaluation_of_the_latest_attempt_that_left_one_counts(tmp_path):
    written(tmp_path / "1", 10, row=[0, 1], loss=[5.0, 5.0])
    written(tmp_path / "1", 20, row=[0, 1], loss=[1.0, 2.0])
    (tmp_path / "2").mkdir()
    assert last_losses([tmp_path / "1", tmp_path / "2"], "val_loss").losses == {0: 1.0, 1: 2.0}
    assert last_losses([tmp_path / "2"], "val_loss") is None
