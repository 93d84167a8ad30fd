//! io_uring for UDP links and TAP queues. Knows nothing of ZeroTier; nearly all unsafe code of the house is here.
