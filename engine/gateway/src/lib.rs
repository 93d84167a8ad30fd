//! The hawser binary: shards and control plane put together; configuration, service API, command line, lab.
