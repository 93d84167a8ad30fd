//! The `hawser` binary as a library: shards and control plane put together, and everything the operator touches.
//!
//! This is the only room that sees sockets, files, threads and the kernel. It must never know how a packet looks inside:
//! it carries bytes between the kernel, the shards and the control plane's state machines, and answers the operator.

pub mod api;
pub mod backoff;
pub mod cli;
pub mod client;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod home;
pub mod links;
pub mod local_conf;
pub mod netlink;
pub mod network_conf;
pub mod objects;
pub mod portmap;
pub mod proof;
pub mod show;
pub mod spread;
pub mod store;
pub mod taps;
pub mod tcp_relay;
pub mod tcp_relay_server;
pub mod tools;
pub mod unreachable;
pub mod writer;
