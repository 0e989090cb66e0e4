"""The price of what was not shown: seeds, GPU-hours, money."""

import math

from scipy import stats

from ablate.deciding.compare import compare
from ablate.deciding.noise import Pool
from ablate.deciding.price import seeds_to_see
from tests.small_trees import TINY, one, results
from tests.studies import LOSS, scores_of


def test_the_price_is_the_smallest_number_of_seeds_that_shows_the_effect():
    found = compare(LOSS, scores_of("A", [0.5] * 3), scores_of("B", [0.5] * 3), Pool("val_loss", 0.049, 6, "measured"), 0.05)
    seeds = seeds_to_see(found, 0.08)

    def power(n):
        df, error = 6 + 2 * (n - 3), 0.049 * math.sqrt(2 / n)
        return stats.nct.sf(stats.t.ppf(0.975, df), df, 0.08 / error)

    assert power(seeds) >= 0.8 > power(seeds - 1)
    assert seeds_to_see(found, 1e-5) is None


def test_a_decision_that_shows_nothing_says_what_knowing_would_cost():
    record = one(results(F1=[0.2, 0.4], F2=[0.2, 0.4], F3=[0.2, 0.4]))
    assert record.price.startswith(
        "to show a difference of the margin with probability 0.8: F2 − F3 on val_loss (0.08 nats per token): "
    )
    seeds = int(record.price.split("token): ")[1].split(" ")[0])
    added = seeds - 2
    gpu_hours = 2 * added * (1 + 2 + 3)
    assert record.price.endswith(f"Together {3 * added} more jobs, {gpu_hours:,.3g} GPU-hours, ${gpu_hours * 0.5:,.2f}")


def test_a_decision_in_which_all_was_shown_has_no_price():
    assert one(results(**{**TINY, "F2": [0.150, 0.160, 0.190]})).price == ""
