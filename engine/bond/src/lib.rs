//! One peer's paths used together.

pub mod compat;
pub mod config;
pub mod limits;
pub mod qos;
