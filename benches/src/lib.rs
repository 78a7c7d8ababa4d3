//! Comparisons and load tests.
