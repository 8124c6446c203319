"""What the tests compare with and draw from: exact truth, cases, mutants, foreign code, and the reader of formulas."""
