"""Tests of the comparison: python3 -m unittest discover -s benches/instructions"""

import json
import unittest

import count

RECORDED = {"with": ["rustc 1.95.0", "valgrind-3.19.0"], "instructions": {"append": 100_000, "page": 500_000}}


def counted(versions=None, **instructions):
    return {"with": versions or RECORDED["with"], "instructions": {**RECORDED["instructions"], **instructions}}


class Comparison(unittest.TestCase):
    def test_figures_within_the_tolerance_pass(self):
        for page in (485_001, 500_000, 514_999):
            self.assertIsNone(count.difference(RECORDED, counted(page=page)))

    def test_worse_and_better_figures_fail_alike_with_what_to_do(self):
        for page in (484_000, 516_000):
            problem = count.difference(RECORDED, counted(page=page))
            self.assertIn("more than 3% from the recorded figure: page\n", problem)
            self.assertIn("count.py --record", problem)
            self.assertIn("commit message", problem)
            self.assertNotIn("recorded with", problem)

    def test_another_toolchain_is_named_only_if_a_figure_changed(self):
        newer = ["rustc 1.96.0", "valgrind-3.19.0"]
        self.assertIsNone(count.difference(RECORDED, counted(newer)))
        problem = count.difference(RECORDED, counted(newer, append=90_000))
        self.assertIn("recorded with rustc 1.95.0 and valgrind-3.19.0; this is rustc 1.96.0 and valgrind-3.19.0", problem)

    def test_a_figure_that_was_never_recorded_fails(self):
        self.assertIn("recorded figure: delivery", count.difference(RECORDED, counted(delivery=5_000)))

    def test_the_table_marks_what_changed(self):
        lines = count.table(RECORDED["instructions"], counted(page=600_000)["instructions"]).splitlines()
        self.assertRegex(lines[1], r"^append +100,000 +100,000 +\+0\.0%   an append of one event$")
        self.assertRegex(lines[2], r"^page +500,000 +600,000 +\+20\.0%  <== !   a page")

    def test_every_figure_is_recorded(self):
        recorded = json.loads(count.RECORDED.read_text())
        self.assertEqual(list(recorded["instructions"]), list(count.FIGURES))


if __name__ == "__main__":
    unittest.main()
