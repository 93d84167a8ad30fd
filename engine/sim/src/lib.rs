//! A deterministic world for tests: virtual clock, links with loss, delay and reordering, seeds.
