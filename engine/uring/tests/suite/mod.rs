//! What a ring promises, whichever system calls it works by.

mod support;
mod tap;
mod turns;
mod udp;
