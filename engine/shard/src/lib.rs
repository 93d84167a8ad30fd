//! One core's packet work over buffers: open, filter, deliver; pick a path, seal, send. Sans-I/O.
