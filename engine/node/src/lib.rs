//! The control plane as a state machine: peers, paths, roots, networks. Sans-I/O.
