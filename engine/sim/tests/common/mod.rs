//! The laboratory of [`sim::lab`], for tests that include this file.
#![allow(unused_imports)]

pub use sim::lab::*;
