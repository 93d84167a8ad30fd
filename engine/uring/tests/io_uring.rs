//! The suite on io_uring.

mod suite;

const BACKEND: uring::Backend = uring::Backend::IoUring;
