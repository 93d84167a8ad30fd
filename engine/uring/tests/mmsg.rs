//! The suite on `recvmmsg`, `sendmmsg` and epoll.

mod suite;

const BACKEND: uring::Backend = uring::Backend::Mmsg;
